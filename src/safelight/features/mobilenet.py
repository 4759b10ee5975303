"""MobileNetV2 (Sandler et al., arXiv 1801.04381), trained on ImageNet, with weights of 8 bits: 91.2
% of 250 pictures of ImageNet's own training set come out right. Its pooled features serve Fréchet
and kernel distances."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from safelight.nn.pretrained import at_least, native, same, weights_of
from safelight.types.tensors import Images

WEIGHTS = Path(__file__).parent / "weights" / "mobilenet_v2_imagenet_u8.safetensors"

STAGES = [  # how much wider inside, channels, blocks, stride of the first (table 2 of the paper)
    *[(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)],
    *[(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)],
]
SHOWN = (1, 3, 6, 13, 17)  # the last block of each size


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""

    def build(self) -> "MobileNet":
        return MobileNet()


class MobileNet(nn.Module):
    """Images (b, 3, h, w) in [-1, 1], 32 pixels a side or more, to maps of 16, 24, 32, 96 and 320
    channels at 1/2, 1/4, … 1/32 of the size. It never trains; gradients pass through it to the
    images."""

    name = "mobilenet-v2"
    min_size = 32
    heads: tuple[Tensor, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [Convolution(3, 32, stride=2)]
        before = 32
        for wider, width, blocks, stride in STAGES:
            for number in range(blocks):
                layers.append(Block(before, width, wider, stride if number == 0 else 1))
                before = width
        self.features = nn.Sequential(*layers, Convolution(before, 1280, kernel=1))
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(1280, 1001))
        self.load_state_dict(weights_of(WEIGHTS))
        self.requires_grad_(False)

    def maps(self, images: Images) -> tuple[Tensor, ...]:
        """After the last block of each size."""
        at_least(self.name, self.min_size, images)
        x, found = images, []
        for number in range(SHOWN[-1] + 1):
            x = self.features[number](x)
            found += [x] if number in SHOWN else []
        return tuple(found)

    def vector(self, images: Images) -> Tensor:
        """(b, 1280): the last layer's mean over places, of images scaled to 224×224."""
        return self.features(native(images, 224)).mean((2, 3))  # type: ignore[no-any-return]

    def classify(self, images: Images) -> Tensor:
        """(b, 1001): how much speaks for each class of ImageNet; the first is none of them."""
        return self.classifier(self.vector(images))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Wider, filtered by channel, narrower again; beside a skip where size and width stay."""

    def __init__(self, before: int, width: int, wider: int, stride: int) -> None:
        super().__init__()
        inside = before * wider
        widen = [Convolution(before, inside, kernel=1)] if wider > 1 else []
        filters = Convolution(inside, inside, stride=stride, groups=inside)
        self.conv = nn.Sequential(*widen, filters, nn.Conv2d(inside, width, 1))
        self.skips = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skips else self.conv(x)  # type: ignore[no-any-return]


class Convolution(nn.Sequential):
    """Padded, filtered, cut off below 0 and above 6."""

    def __init__(
        self, before: int, after: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(nn.Conv2d(before, after, kernel, stride, groups=groups))
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self[0](same(x, self.stride) if self.kernel == 3 else x))
