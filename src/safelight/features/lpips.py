"""LPIPS 0.1 (Zhang et al., arXiv 1801.03924): the perceptual distance with weights that were
learned from judgements of people. The heads come with the package; the trunk does not, and the user
names its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.pretrained import at_least, native, weights_of
from safelight.types.tensors import Images

HEADS = Path(__file__).parent / "weights"
LEAST = {"alex": 63, "vgg": 16, "squeeze": 17}  # pixels a side, so that the deepest map has a place
SHOWN = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29), "squeeze": (1, 4, 7, 9, 10, 11, 12)}


@dataclass(frozen=True)
class Config:
    """``weights``: a safetensors file with torchvision's names (``features.0.weight``, …; AlexNet,
    VGG-16, SqueezeNet 1.1), or ``owner/name`` on the hub for its ``model.safetensors``, if
    huggingface_hub is installed.

    ``heads``: a file of ``lin0.model.1.weight``, …; none: those of LPIPS 0.1.
    """

    weights: str
    trunk: Literal["alex", "vgg", "squeeze"] = "alex"
    heads: str = ""

    def build(self) -> "LPIPS":
        return LPIPS(self)


class LPIPS(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] to the maps of a trunk after its activations. It never trains;
    gradients pass through it to the images. BadInput if the weights are not there or are another
    network's."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.name = f"lpips-{config.trunk}"
        self.min_size = LEAST[config.trunk]
        self.features = TRUNKS[config.trunk]()
        path = _found(config.weights)
        tensors = {
            name: value for name, value in weights_of(path).items() if name.startswith("features.")
        }
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            raise BadInput(
                f"{str(path)!r} is no {config.trunk} with torchvision's names: "
                f"{str(error).splitlines()[-1].strip()}"
            ) from None
        heads = weights_of(
            Path(config.heads)
            if config.heads
            else HEADS / f"lpips_v0.1_{config.trunk}_heads.safetensors"
        )
        self.count = len(SHOWN[config.trunk])
        for number in range(self.count):
            if f"lin{number}.model.1.weight" not in heads:
                raise BadInput(
                    f"lpips: {config.heads!r} has no lin{number}.model.1.weight; name a file of "
                    "LPIPS heads."
                )
            self.register_buffer(f"head{number}", heads[f"lin{number}.model.1.weight"].flatten())
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.requires_grad_(False)

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The learned weight of each channel of each map."""
        return tuple(self.get_buffer(f"head{number}") for number in range(self.count))

    def maps(self, images: Images) -> tuple[Tensor, ...]:
        """As LPIPS takes them: after the last activation of each size or width."""
        at_least(self.name, self.min_size, images)
        x, found = (images - self.get_buffer("shift")) / self.get_buffer("scale"), []
        for number, layer in enumerate(self.features):
            x = layer(x)
            found += [x] if number in SHOWN[self.config.trunk] else []
        return tuple(found)

    def vector(self, images: Images) -> Tensor:
        """(b, d): the deepest map's mean over places, of images scaled to 224×224."""
        return self.maps(native(images, 224))[-1].mean((2, 3))


def _found(weights: str) -> Path:
    """The file that is meant; one of the hub is fetched."""
    if Path(weights).is_file():
        return Path(weights)
    if weights.count("/") == 1 and not weights.endswith(".safetensors"):
        try:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        except ImportError:
            raise BadInput(
                f"lpips: {weights!r} would come from the hub; pip install huggingface_hub."
            ) from None
        try:
            return Path(hf_hub_download(weights, "model.safetensors"))
        except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(
                f"lpips: {weights!r} did not come from the hub ({reason}); name a file of weights."
            ) from None
    raise BadInput(
        f"lpips: there is no file {weights!r}; name a safetensors file of the trunk "
        "with torchvision's names, or take "
        'the network that comes with the package, "tiny-darknet".'
    )


def _alex() -> nn.Sequential:
    return nn.Sequential(
        *[nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)],
        *[nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)],
        *[nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()],
        *[
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        ],
    )


def _vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for number, (width, convolutions) in enumerate(
        [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]
    ):
        layers += [nn.MaxPool2d(2)] if number else []
        for _ in range(convolutions):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    return nn.Sequential(*layers)


def _squeeze() -> nn.Sequential:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *[
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool(),
        ],
        *[Fire(128, 32, 128), Fire(256, 32, 128), pool()],
        *[Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)],
    )


class Fire(nn.Module):
    """Squeezed to few channels, then widened by 1×1 and 3×3 side by side (SqueezeNet, arXiv
    1602.07360)."""

    def __init__(self, before: int, few: int, each: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, few, 1)
        self.expand1x1 = nn.Conv2d(few, each, 1)
        self.expand3x3 = nn.Conv2d(few, each, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


TRUNKS = {"alex": _alex, "vgg": _vgg, "squeeze": _squeeze}
