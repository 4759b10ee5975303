"""The network of the tiny autoencoder."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.autoencoders.tiny.config import Config
from safelight.nn.latent_scale import LatentScale
from safelight.nn.local_layers import LocalLayer, global_span, layer
from safelight.nn.sizes import reduced
from safelight.types.networks import Encoding
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents


class Tiny(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] ⇄ latents (b, c, h/f, w/f). BadInput for sizes that f does not
    divide."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.factor = 2**config.levels
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        self.scale = LatentScale(config.latent_channels)

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer."""
        return cast(nn.Conv2d, self.decoder[-1]).weight

    def encode(self, images: Images) -> Encoding:
        """The latents of images; the encoding has no spread."""
        self.latent_shape(tuple(images.shape))
        local = self.encoder[: _pooling(self.encoder)[0]]
        return self.encode_global(local(self._unit(images)))

    def encode_local(self) -> Sequence[LocalLayer]:
        """The encoder's layers before any that pools."""
        unit = LocalLayer(self, lambda maps, _: (self._unit(maps[0]),), radius=0)
        return [unit, *_described(list(self.encoder)[: _pooling(self.encoder)[0]])]

    def encode_global(self, features: Tensor) -> Encoding:
        """The rest of ``encode``."""
        raw = self.encoder[_pooling(self.encoder)[0] :](features)
        return self.scale.standard(Encoding(raw.float()))

    def decode(self, latents: Latents) -> Images:
        """Images behind latents in standard units."""
        local = self.decoder[_pooling(self.decoder)[1] :]
        return self._images(local(self.decode_global(latents))).to(latents.dtype)

    def decode_global(self, latents: Latents) -> Tensor:
        """The decoder's layers up to the last that pools."""
        raw = torch.tanh(self.scale.raw(latents) / 3) * 3
        return self.decoder[: _pooling(self.decoder)[1]](raw.to(self.scale.mean.dtype))  # type: ignore[no-any-return]

    def decode_local(self) -> Sequence[LocalLayer]:
        """The rest of ``decode``."""
        images = LocalLayer(self, lambda maps, _: (self._images(maps[0]),), radius=0)
        return [*_described(list(self.decoder)[_pooling(self.decoder)[1] :]), images]

    def _unit(self, images: Images) -> Tensor:
        return (images.to(self.scale.mean.dtype) + 1) / 2  # the network works in [0, 1]

    def _images(self, unit: Tensor) -> Images:
        return unit.float() * 2 - 1

    def regularisers(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """None: its latents have no regulariser."""
        return {}

    def latent_shape(self, image_shape: Shape) -> Shape:
        """(b, 3, h, w) → (b, c, h/f, w/f)."""
        return reduced("tiny", image_shape, 3, self.config.latent_channels, self.factor)


def _encoder(config: Config) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, config.width), Block(config.width)]
    for number in range(config.levels):
        layers.append(nn.Conv2d(config.width, config.width, 3, stride=2, padding=1, bias=False))
        pool = config.pool and number == config.levels - 1
        layers += [Block(config.width, pool) for _ in range(config.blocks)]
    return nn.Sequential(*layers, _conv(config.width, config.latent_channels))


def _decoder(config: Config) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(config.latent_channels, config.width), nn.ReLU()]
    for number in range(config.levels):
        layers += [Block(config.width, config.pool and number == 0) for _ in range(config.blocks)]
        layers += [
            nn.Upsample(scale_factor=2),
            nn.Conv2d(config.width, config.width, 3, padding=1, bias=False),
        ]
    return nn.Sequential(*layers, Block(config.width), _conv(config.width, 3))


def _pooling(layers: nn.Sequential) -> tuple[int, int]:
    """Where the first block that pools begins and where the last one ends: (the layers' number, 0)
    if none does."""
    return global_span(layers, lambda one: isinstance(one, Block) and one.pool is not None)


def _described(modules: Sequence[nn.Module]) -> Iterator[LocalLayer]:
    """The layers of blocks that do not pool."""
    before: nn.Module | None = None
    for number, module in enumerate(modules):
        if isinstance(module, nn.Upsample):
            yield layer(nn.Sequential(*modules[number : number + 2]), radius=1, up=2)
        elif not isinstance(before, nn.Upsample):
            radius = {Block: 3, nn.Conv2d: 1, nn.ReLU: 0}[type(module)]
            yield layer(
                module,
                radius,
                down=2 if isinstance(module, nn.Conv2d) and module.stride[0] == 2 else 1,
            )
        before = module


class Block(nn.Module):
    """Three convolutions beside a skip, with ReLU between and after.

    A ``pool`` before them norms groups of channels over the whole image, so that each position
    depends on all others.
    """

    def __init__(self, width: int, pool: bool = False) -> None:
        super().__init__()
        self.pool = _pool(width) if pool else None
        self.conv = nn.Sequential(
            _conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return F.relu(self.conv(x) + x)


def _pool(width: int) -> nn.Sequential:
    wide = 4 * width
    enter, leave = (nn.Conv2d(*sides, 1, bias=False) for sides in ((width, wide), (wide, width)))
    return nn.Sequential(enter, nn.GroupNorm(4, wide), nn.ReLU(), leave)


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)
