"""The patch discriminator (PatchGAN; Isola et al., arXiv 1611.07004, appendix 6.1.2).

Convolutions that give one logit for each patch of the picture; with three layers a patch is 70
pixels wide.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from safelight.errors import BadInput
from safelight.training.discriminators import Mean
from safelight.types.tensors import Images


@dataclass(frozen=True)
class Config:
    """There is no batch norm: its statistics would depend on how a batch is divided.

    They would also mix originals and reconstructions.
    """

    width: int = 64  # channels after the first layer; each further one doubles them, up to 8 times
    layers: int = 3  # layers that halve the size
    norm: Literal["spectral", "actnorm", "group", "none"] = "group"

    def __post_init__(self) -> None:
        if min(self.width, self.layers) < 1:
            raise BadInput(f"patch: wanted width ≥ 1 and layers ≥ 1, got {self}.")

    def build(self, mean: Mean) -> "Patch":
        return Patch(self, mean)


class Patch(nn.Module):
    """Images (b, 3, h, w) to logits (b, 1, h', w'), above 0 where a patch looks real.

    The images have sides of at least ``min_size`` pixels.
    """

    def __init__(self, config: Config, mean: Mean) -> None:
        super().__init__()
        self.config = config
        self.min_size = 3 * 2**config.layers
        widths = [config.width * min(2**number, 8) for number in range(config.layers + 1)]
        layers: list[nn.Module] = [
            nn.Conv2d(3, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 2 if number < config.layers else 1
            layers += [
                nn.Conv2d(before, after, 4, stride, padding=1),
                *_norm(config.norm, after, mean),
            ]
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for layer in [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]:
            nn.init.normal_(layer.weight, 0.0, 0.02)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            if config.norm == "spectral":
                spectral_norm(layer)

    def forward(self, images: Images) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


class ActNorm(nn.Module):
    """Activation normalisation (Glow; Kingma and Dhariwal, arXiv 1807.03039, section 3.1).

    A learned gain and shift of each channel, initialised so that the first batch of training has
    zero mean and unit variance. That batch is the first micro-batch of all processes. ``ready`` is
    saved, so that a resumed run is not initialised again; in evaluation mode it never is.
    """

    ready: Tensor

    def __init__(self, width: int, mean: Mean) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.register_buffer("ready", torch.tensor(False))
        self._mean = mean

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.ready:
            self._initialise(x.detach().float())
        return (x + self.shift.view(-1, 1, 1)) * self.gain.view(-1, 1, 1)

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        mean, square = self._mean(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))
        self.shift.copy_(-mean)
        self.gain.copy_((square - mean.square()).clamp(min=1e-12).rsqrt())
        self.ready.fill_(True)


def _norm(kind: str, width: int, mean: Mean) -> list[nn.Module]:
    if kind == "actnorm":
        return [ActNorm(width, mean)]
    return [nn.GroupNorm(gcd(width, 32), width)] if kind == "group" else []
