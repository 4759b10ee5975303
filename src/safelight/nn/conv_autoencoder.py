"""The convolutional encoder and decoder of latent diffusion's first stages (Rombach et al., arXiv
2112.10752, E.1; from Esser et al., arXiv 2012.09841): levels of residual blocks, each half the size
of the last, attention in the middle and, as an option, inside levels."""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from safelight.nn.configs import Pyramid
from safelight.nn.kernels.convolution import Convolution3
from safelight.nn.local_layers import LocalLayer, global_span, layer
from safelight.nn.norms import GroupNorm, Moments
from safelight.types.tensors import Images, Latents


class Encoder(nn.Module):
    """Images (b, channels, h, w) → (b, out, h/f, w/f): first ``forward_local``, then
    ``forward_global``, which attends to all places."""

    def __init__(self, shape: Pyramid, out: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(shape.channels, shape.width, 3, padding=1)
        layers: list[nn.Module] = []
        before = shape.width
        for number, (width, attends) in enumerate(shape.levels):
            layers += level(before, width, shape.blocks, shape.groups, attends)
            layers += [Down(width)] if number < len(shape.levels) - 1 else []
            before = width
        self.levels = nn.Sequential(*layers)
        self.middle = middle(before, shape)
        self.norm = norm(before, shape.groups, silu=True)
        self.leave = nn.Conv2d(before, out, 3, padding=1)

    def forward(self, images: Images) -> Tensor:
        return self.forward_global(self.forward_local(images))

    def forward_local(self, images: Images) -> Tensor:
        """The layers before any attention."""
        return self.levels[: attention_span(self.levels)[0]](self.enter(images))  # type: ignore[no-any-return]

    def local_sequence(self) -> list[LocalLayer]:
        """Those of ``forward_local``, one by one."""
        enter = LocalLayer(
            self.enter, lambda maps, _: (self.enter(maps[0].to(self.enter.weight.dtype)),), radius=1
        )
        return [enter, *described(list(self.levels)[: attention_span(self.levels)[0]])]

    def forward_global(self, x: Tensor) -> Tensor:
        """The layers from the first attention on."""
        x = self.middle(self.levels[attention_span(self.levels)[0] :](x))
        return self.leave(self.norm(x))  # type: ignore[no-any-return]  # (b, out, h/f, w/f)


class Decoder(nn.Module):
    """Latents (b, c, h/f, w/f) → (b, channels, h, w): first ``forward_global``, which attends to
    all places, then ``forward_local``."""

    def __init__(self, shape: Pyramid, latent_channels: int) -> None:
        super().__init__()
        before = shape.levels[-1][0]
        self.enter = nn.Conv2d(latent_channels, before, 3, padding=1)
        self.middle = middle(before, shape)
        layers: list[nn.Module] = []
        for number, (width, attends) in reversed(list(enumerate(shape.levels))):
            layers += level(before, width, shape.blocks + 1, shape.groups, attends)
            layers += [Up(width)] if number else []
            before = width
        self.levels = nn.Sequential(*layers)
        self.norm = norm(before, shape.groups, silu=True)
        self.leave = nn.Conv2d(before, shape.channels, 3, padding=1)

    def forward(self, latents: Latents) -> Tensor:
        return self.forward_local(self.forward_global(latents))

    def forward_global(self, latents: Latents) -> Tensor:
        """The layers up to the last attention."""
        x = self.middle(self.enter(latents))
        return self.levels[: attention_span(self.levels)[1]](x)  # type: ignore[no-any-return]

    def forward_local(self, x: Tensor) -> Tensor:
        """The layers after all attention."""
        return self._pictures(
            self.levels[attention_span(self.levels)[1] :](x)
        )  # (b, channels, h, w)

    def local_sequence(self) -> list[LocalLayer]:
        """Those of ``forward_local``, one by one."""
        leave = LocalLayer(
            self, lambda maps, known: (self._pictures(maps[0], known),), radius=1, norm=self.norm
        )
        return [*described(list(self.levels)[attention_span(self.levels)[1] :]), leave]

    def _pictures(self, x: Tensor, known: Moments | None = None) -> Tensor:
        return self.leave(self.norm(x, known=known))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice, beside a skip that changes the width where it must."""

    def __init__(self, before: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = norm(before, groups, silu=True)
        self.conv1 = Convolution3(before, width)
        self.norm2 = norm(width, groups, silu=True)
        self.conv2 = Convolution3(width, width)
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(*self.first(x))

    def first(self, x: Tensor, known: Moments | None = None) -> tuple[Tensor, Tensor]:
        """The skip, and what goes on beside it; ``known`` are the moments of a whole image that
        ``x`` is a part of."""
        y = self.conv1(self.norm1(x, known=known))
        return self.skip(x), y

    def second(self, skip: Tensor, y: Tensor, known: Moments | None = None) -> Tensor:
        """The rest; writes over ``y``."""
        return self.conv2(self.norm2(y, mine=True, known=known), skip)  # type: ignore[no-any-return]

    def layers(self) -> list[LocalLayer]:
        """Both halves."""
        first = LocalLayer(
            self, lambda maps, known: self.first(maps[0], known), radius=1, norm=self.norm1
        )
        return [
            first,
            LocalLayer(
                self,
                lambda maps, known: (self.second(maps[0], maps[1], known),),
                radius=1,
                norm=self.norm2,
            ),
        ]


class SpatialAttention(nn.Module):
    """One head over all places of an image."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = norm(width, groups)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        )  # (b, 1, hw, c)
        y = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape)
        return x + self.out(y)  # type: ignore[no-any-return]


class Down(nn.Module):
    """Half the size by a strided convolution, padded at the right and the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Up(nn.Module):
    """Twice the size by repetition, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Convolution3(width, width, twice=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


def level(before: int, width: int, blocks: int, groups: int, attends: bool) -> list[nn.Module]:
    """The blocks of one level, each followed by attention if the level attends."""
    layers: list[nn.Module] = []
    for number in range(blocks):
        layers.append(Residual(before if number == 0 else width, width, groups))
        layers += [SpatialAttention(width, groups)] if attends else []
    return layers


def described(modules: Sequence[nn.Module]) -> Iterator[LocalLayer]:
    """The layers of levels without attention."""
    for module in modules:
        if isinstance(module, Residual):
            yield from module.layers()
        else:
            twice = isinstance(module, Up)
            yield layer(module, radius=1, up=2 if twice else 1, down=1 if twice else 2)


def attention_span(layers: nn.Sequential) -> tuple[int, int]:
    """Where the first layer that attends begins and where the last one ends: (the layers' number,
    0) if none does."""
    return global_span(layers, lambda one: isinstance(one, SpatialAttention))


def middle(width: int, shape: Pyramid) -> nn.Sequential:
    between = [SpatialAttention(width, shape.groups)] if shape.middle else []
    return nn.Sequential(
        Residual(width, width, shape.groups), *between, Residual(width, width, shape.groups)
    )


def norm(width: int, groups: int, silu: bool = False) -> GroupNorm:
    return GroupNorm(groups, width, 1e-6, silu)
