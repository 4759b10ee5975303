"""Tiny Darknet (Redmon, 2016): 16 plain convolutions, trained on ImageNet. The network of the
perceptual loss when no other is named: small enough to come with the package, fast enough to train
with."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from safelight.nn.pretrained import at_least, native, weights_of
from safelight.types.tensors import Images

WEIGHTS = Path(__file__).parent / "weights" / "tiny_darknet_imagenet_f16.safetensors"

LAYERS = [  # width and kernel of convolutions; None: half the size
    *[(16, 3), None, (32, 3), None, (16, 1), (128, 3), (16, 1), (128, 3), None],
    *[
        (32, 1),
        (256, 3),
        (32, 1),
        (256, 3),
        None,
        (64, 1),
        (512, 3),
        (64, 1),
        (512, 3),
        (128, 1),
        (1000, 1),
    ],
]
SHOWN = (1, 2, 6, 10, 14)  # the last convolution of each size


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""

    def build(self) -> "TinyDarknet":
        return TinyDarknet()


class TinyDarknet(nn.Module):
    """Images (b, 3, h, w) in [-1, 1], 16 pixels a side or more, to maps of 16, 32, 128, 256 and 512
    channels at 1, 1/2, 1/4, 1/8 and 1/16 of the size. It never trains; gradients pass through it to
    the images."""

    name = "tiny-darknet"
    min_size = 16
    heads: tuple[Tensor, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        before, number = 3, 0
        for layer in LAYERS:
            if layer is not None:
                number += 1
                self.add_module(
                    f"conv{number}", nn.Conv2d(before, layer[0], layer[1], padding=layer[1] // 2)
                )
                before = layer[0]
        self.load_state_dict(weights_of(WEIGHTS))
        self.requires_grad_(False)

    def maps(self, images: Images) -> tuple[Tensor, ...]:
        """After the activation of the last convolution of each size."""
        at_least(self.name, self.min_size, images)
        return tuple(self._activations(images)[number] for number in SHOWN)

    def vector(self, images: Images) -> Tensor:
        """(b, 512): the deepest map's mean over places, of images scaled to 224×224."""
        return self._activations(native(images, 224))[SHOWN[-1]].mean((2, 3))

    def classify(self, images: Images) -> Tensor:
        """(b, 1000): how much speaks for each class of ImageNet, in Darknet's own order, at
        224×224."""
        return self._activations(native(images, 224))[16].mean((2, 3))

    def _activations(self, images: Images) -> dict[int, Tensor]:
        x = (images + 1) / 2  # it was trained on [0, 1]
        found: dict[int, Tensor] = {}
        for layer in LAYERS:
            if layer is None:
                x = F.max_pool2d(x, 2, ceil_mode=True)
                continue
            number = len(found) + 1
            x = self.get_submodule(f"conv{number}")(x)
            x = F.leaky_relu(x, 0.1) if number < 16 else x
            found[number] = x
        return found
