"""Tiles: images of any extent through an autoencoder in memory that grows with the tile."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.norms import GroupNorm, Statistics
from safelight.types import Autoencoder, Divided, Encoding, Images, Latents, Shape


class Tiled:
    """An autoencoder whose near part is carried out in tiles of ``tile`` pixels, of which neighbours share ``overlap``.

    The far part, which attends to all places, sees the whole image at the size of its latents. The near part is
    convolutions, so that away from a tile's edge its answers are the whole image's: of an overlap the outer 3/8 on
    each side are thrown away and the quarter between is blended. Where 3/8 of the overlap reach as far as the
    convolutions do, tiles give what the whole image gives.

    That holds but for the group norms, whose statistics are the whole image's (where tiles take their own, each has a
    tone of its own). They are gathered in ``rounds`` of all tiles, each of which costs as much as the result itself: in
    the first each tile still uses its own. Networks without group norms need none. ``docs/judging.md`` has what each
    round gives.
    """

    def __init__(self, autoencoder: Autoencoder, tile: int = 512, overlap: int = 128, rounds: int = 3) -> None:
        self.autoencoder, self.factor, self.last = autoencoder, autoencoder.factor, autoencoder.last
        self.tile, self.overlap = (math.ceil(size / self.factor) * self.factor for size in (tile, overlap))
        if overlap < 0 or rounds < 0 or 2 * self.overlap > self.tile or self.tile < 1:
            raise BadInput(
                f"tiles: wanted an overlap of at most half a tile (multiples of {self.factor} pixels) and 0 rounds or "
                f"more, got a tile of {tile}, an overlap of {overlap} and {rounds} rounds."
            )
        self._parts: Divided = autoencoder if isinstance(autoencoder, Divided) else _AllNear(autoencoder)
        modules = autoencoder.modules() if isinstance(autoencoder, nn.Module) else ()
        self._norms = [one for one in modules if isinstance(one, GroupNorm)]
        self._rounds = rounds if self._norms else 0

    @torch.no_grad()
    def encode(self, images: Images) -> Encoding:
        """As the autoencoder's own."""
        self.latent_shape(tuple(images.shape))
        near = [self._in_tiles(self._parts.encode_near, image, 1) for image in torch.split(images, 1)]
        return self._parts.encode_far(torch.cat(near))

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """As the autoencoder's own."""
        near = []
        for one in torch.split(latents, 1):
            features = self._parts.decode_far(one)
            unit = self.factor * one.shape[-1] // features.shape[-1]
            near.append(self._in_tiles(self._parts.decode_near, features, unit).to(latents.dtype))
        return torch.cat(near) if len(near) > 1 else near[0]

    def costs(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """The autoencoder's own."""
        return self.autoencoder.costs(encoding)

    def latent_shape(self, image_shape: Shape) -> Shape:
        """The autoencoder's own."""
        return self.autoencoder.latent_shape(image_shape)

    def _in_tiles(self, near: Callable[[Tensor], Tensor], x: Tensor, unit: int) -> Tensor:
        """``near`` of ``x`` (1, c, h, w), one place of which stands for ``unit`` × ``unit`` pixels."""
        tile, overlap, grain = (size // unit for size in (self.tile, self.overlap, self.factor))
        height, width = x.shape[-2:]
        tiles = list(product(spans(height, tile, overlap, grain), spans(width, tile, overlap, grain)))
        if len(tiles) == 1:
            return near(x)
        statistics = Statistics()
        with statistics.used(self._norms) if self._norms else nullcontext():
            for _ in range(self._rounds):
                for rows, columns in tiles:
                    statistics.gather((*rows.own(), *columns.own()))
                    near(_part(x, rows, columns))
                statistics.settle()
            return _blended(near, x, tiles)


class _AllNear:
    """An autoencoder that looks at near places only, or is taken as if it did."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder = autoencoder

    def encode_near(self, images: Images) -> Tensor:
        encoding = self.autoencoder.encode(images)
        return torch.cat([encoding.mean, *([] if encoding.deviation is None else [encoding.deviation])], dim=1)

    def encode_far(self, features: Tensor) -> Encoding:
        channels = self.autoencoder.latent_shape((1, 3, self.autoencoder.factor, self.autoencoder.factor))[1]
        mean, *deviation = torch.split(features, channels, dim=1)
        return Encoding(mean, deviation[0] if deviation else None)

    def decode_far(self, latents: Latents) -> Tensor:
        return latents

    def decode_near(self, features: Tensor) -> Images:
        return self.autoencoder.decode(features)


@dataclass(frozen=True)
class Span:
    """A tile along one axis: from ``start`` to ``end``; ``fade`` in places about ``left`` and ``right``, the middles of
    what it shares with its neighbours (its own ends where there is none)."""

    start: int
    end: int
    left: float
    right: float
    fade: float

    def own(self) -> tuple[float, float]:
        """What no other tile counts, as fractions of this one."""
        return (self.left - self.start) / (self.end - self.start), (self.right - self.start) / (self.end - self.start)

    def weights(self, count: int) -> Tensor:
        """How much of each of its ``count`` answers is taken: with those of its neighbours they add up to one."""
        places = self.start + (torch.arange(count) + 0.5) * (self.end - self.start) / count
        rise = self._ramp(places, self.left) if self.left > self.start else torch.ones(count)
        fall = self._ramp(places, self.right) if self.right < self.end else torch.zeros(count)
        return rise - fall

    def _ramp(self, places: Tensor, middle: float) -> Tensor:
        return ((places - middle) / self.fade + 0.5).clamp(0, 1) if self.fade else (places > middle).float()


def spans(side: int, tile: int, overlap: int, grain: int = 1) -> Iterator[Span]:
    """The tiles along an axis of ``side`` places; the last one is moved back to end with it."""
    count = 1 if side <= tile else math.ceil((side - overlap) / (tile - overlap))
    starts = [max(0, min(number * (tile - overlap), side - tile)) for number in range(count)]
    ends = [min(start + tile, side) for start in starts]
    middles = [(start + end) // 2 // grain * grain for start, end in zip(starts[1:], ends[:-1], strict=True)]
    for start, end, left, right in zip(starts, ends, [0, *middles], [*middles, side], strict=True):
        yield Span(start, end, left, right, overlap / 4)


def _part(x: Tensor, rows: Span, columns: Span) -> Tensor:
    return x[..., rows.start : rows.end, columns.start : columns.end]


def _blended(near: Callable[[Tensor], Tensor], x: Tensor, tiles: list[tuple[Span, Span]]) -> Tensor:
    whole = None
    for rows, columns in tiles:
        answer = near(_part(x, rows, columns))  # (1, c, h, w) of the tile
        height, width = answer.shape[-2:]
        up, down = height, rows.end - rows.start  # answers for so many places
        if whole is None:
            sides = [extent * up // down for extent in x.shape[-2:]]
            whole = answer.new_zeros(*answer.shape[:2], *sides)
        weights = rows.weights(height)[:, None] * columns.weights(width)
        top, left = rows.start * up // down, columns.start * up // down
        whole[..., top : top + height, left : left + width] += answer * weights.to(answer)
    assert whole is not None
    return whole
