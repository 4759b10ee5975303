"""The tiny autoencoder (TAESD by Ollin Boer Bohan, MIT): 1.2 million parameters each way, f8, no spread.

It shares the latent space of a large family, which its weights decide; used for previews and for small models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.latent_scale import LatentScale
from safelight.nn.sizes import reduced
from safelight.types import Encoding, Images, Latents, Shape


@dataclass(frozen=True)
class Config:
    latent_channels: int = 4
    width: int = 64
    blocks: int = 3  # a level
    levels: int = 3  # each halves the size

    def __post_init__(self) -> None:
        if min(self.latent_channels, self.width, self.blocks, self.levels) < 1:
            raise BadInput(f"tiny: every number wants to be at least 1, got {self}.")

    def build(self) -> "Tiny":
        return Tiny(self)


class Tiny(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] ⇄ latents (b, c, h/f, w/f). BadInput for sizes that f does not divide."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.factor = 2**config.levels
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        self.scale = LatentScale(config.latent_channels)

    @property
    def last(self) -> Tensor:
        """The weight of the decoder's last layer."""
        return cast(nn.Conv2d, self.decoder[-1]).weight

    def encode(self, images: Images) -> Encoding:
        """The latents of images; the encoding has no spread."""
        self.latent_shape(tuple(images.shape))
        unit = (images.to(self.scale.mean.dtype) + 1) / 2  # the network works in [0, 1]
        return self.scale.standard(Encoding(self.encoder(unit).float()))

    def decode(self, latents: Latents) -> Images:
        """Images behind latents in standard units."""
        raw = self.scale.raw(latents)
        images: Tensor = self.decoder((torch.tanh(raw / 3) * 3).to(self.scale.mean.dtype))
        return images.to(latents.dtype) * 2 - 1

    def costs(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """None: nothing but the pictures is asked of its latents."""
        return {}

    def latent_shape(self, image_shape: Shape) -> Shape:
        """(b, 3, h, w) → (b, c, h/f, w/f)."""
        return reduced("tiny", image_shape, 3, self.config.latent_channels, self.factor)


def _encoder(config: Config) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, config.width), Block(config.width)]
    for _ in range(config.levels):
        layers.append(nn.Conv2d(config.width, config.width, 3, stride=2, padding=1, bias=False))
        layers += [Block(config.width) for _ in range(config.blocks)]
    return nn.Sequential(*layers, _conv(config.width, config.latent_channels))


def _decoder(config: Config) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(config.latent_channels, config.width), nn.ReLU()]
    for _ in range(config.levels):
        layers += [Block(config.width) for _ in range(config.blocks)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(config.width, config.width, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, Block(config.width), _conv(config.width, 3))


class Block(nn.Module):
    """Three convolutions beside a skip, with ReLU between and after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)
