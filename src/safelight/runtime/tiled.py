"""Tiles: images of any extent through an autoencoder, with the whole image's result, in memory that
is bounded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.kernels.convolution import Convolution3
from safelight.nn.local_layers import Divided, Layer, Maps
from safelight.nn.norms import GroupNorm, Moments, moments
from safelight.types.networks import Autoencoder, Encoding
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents

Counts: TypeAlias = tuple[int, int]
"""Tiles down and across."""
Span: TypeAlias = tuple[int, int]
"""Places along one axis: from, and up to but not including."""


class Tiled:
    """An autoencoder whose near part is carried out in tiles of ``tile`` pixels; it gives what the
    whole image gives.

    The far part, which attends to all places, sees the whole image at the size of its features. The
    near part goes layer by layer: a tile takes along the neighbours that its layers see, and group
    norms are told the moments of the whole map. Maps between layers are kept where they are at most
    ``hold`` bytes, and let go while the next are made. Where they are larger they are made anew,
    from the last ones kept, for each norm that follows. So memory is that of the far part, or
    ``hold`` and some tiles, and the price of less is time; ``docs/judging.md`` has figures.
    """

    def __init__(self, autoencoder: Autoencoder, tile: int = 128, hold: int = 2**30) -> None:
        if tile < 1 or hold < 0:
            raise BadInput(
                f"tiles: wanted tiles of at least 1 pixel and 0 bytes or more to hold, got {tile}, {hold}."
            )
        if not isinstance(autoencoder, Divided):
            raise BadInput(
                f"tiles: a {type(autoencoder).__name__} cannot be carried out in tiles; take it whole."
            )
        self.autoencoder, self.factor, self.last_layer = (
            autoencoder,
            autoencoder.factor,
            autoencoder.last_layer,
        )
        self.tile, self.hold, self._parts = tile, hold, autoencoder

    @torch.no_grad()
    def encode(self, images: Images) -> Encoding:
        """As the autoencoder's own."""
        self.latent_shape(tuple(images.shape))
        layers, counts = self._parts.encode_near(), self._counts(*images.shape[-2:])
        if counts == (1, 1):
            return self.autoencoder.encode(images)
        near = [
            through(layers, Way(Kept(image)), counts, self.hold) for image in torch.split(images, 1)
        ]
        return self._parts.encode_far(torch.cat(near))

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """As the autoencoder's own."""
        layers, counts = (
            self._parts.decode_near(),
            self._counts(*(self.factor * side for side in latents.shape[-2:])),
        )
        if counts == (1, 1):
            return self.autoencoder.decode(latents)
        images = []
        for one in torch.split(latents, 1):
            way = Way(Kept(self._parts.decode_far(one)))
            _forget(self.autoencoder)
            images.append(through(layers, way, counts, self.hold).to(latents.dtype))
        return torch.cat(images)

    def regularisers(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """The autoencoder's own."""
        return self.autoencoder.regularisers(encoding)

    def latent_shape(self, image_shape: Shape) -> Shape:
        """The autoencoder's own."""
        return self.autoencoder.latent_shape(image_shape)

    def _counts(self, height: int, width: int) -> Counts:
        return math.ceil(height / self.tile), math.ceil(width / self.tile)


class Kept:
    """The maps of one image, in strips from top to bottom, so that they can be let go while the
    next are made."""

    def __init__(self, *maps: Tensor) -> None:
        self._strips: list[Maps] = [maps] if maps else []
        self._top = 0  # of what is still there

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self._top + sum(maps[0].shape[-2] for maps in self._strips), self._strips[0][
            0
        ].shape[-1]

    def add(self, maps: Maps, columns: Span, width: int) -> None:
        """A tile, beside the one before it or, where it begins at the left, below it."""
        if columns[0] == 0:
            self._strips.append(tuple(_wide(one, width) for one in maps))
        for strip, one in zip(self._strips[-1], maps, strict=True):
            strip[..., slice(*columns)] = one

    def part(self, rows: Span, columns: Span) -> Maps:
        """A copy of these places of each map."""
        pieces: list[Maps] = []
        top = self._top
        for strip in self._strips:
            bottom = top + strip[0].shape[-2]
            if top < rows[1] and rows[0] < bottom:
                inside = slice(max(0, rows[0] - top), rows[1] - top)
                pieces.append(tuple(one[..., inside, slice(*columns)] for one in strip))
            top = bottom
        return tuple(torch.cat(each, dim=-2) for each in zip(*pieces, strict=True))

    def let_go(self, above: int) -> None:
        """Of the rows ``above`` this one none is asked for again. Less than half a strip's is not
        let go."""
        while self._strips:
            first = self._strips[0]
            rows = first[0].shape[-2]
            gone = min(above - self._top, rows)
            if 2 * gone <= rows:
                break
            self._strips[0:1] = (
                [tuple(one[..., gone:, :].clone() for one in first)] if gone < rows else []
            )
            self._top += gone


def _wide(tile: Tensor, width: int) -> Tensor:
    """Room for a strip as high as the tile, in its memory format."""
    layout = torch.channels_last if tile.stride(1) == 1 else torch.contiguous_format
    return torch.empty(
        (*tile.shape[:3], width), dtype=tile.dtype, device=tile.device, memory_format=layout
    )


@dataclass(frozen=True)
class Way:
    """From maps that are kept through the layers since, each with the moments of its norm."""

    kept: Kept
    layers: tuple[Layer, ...] = ()
    known: tuple[Moments | None, ...] = ()

    def further(self, layer: Layer, known: Moments | None) -> "Way":
        """One layer on."""
        return Way(self.kept, (*self.layers, layer), (*self.known, known))

    def sides(self) -> list[tuple[int, int]]:
        """Height and width of the maps before each layer and after the last."""
        sides = [self.kept.sides]
        for layer in self.layers:
            height, width = sides[-1]
            sides.append((height * layer.up // layer.down, width * layer.up // layer.down))
        return sides

    def spans(self, last: Span, axis: int) -> list[Span]:
        """What is needed of the maps before each layer, and after them all the span ``last``."""
        spans = [last]
        for layer, sides in zip(reversed(self.layers), reversed(self.sides()[:-1]), strict=True):
            start, end = (
                place * layer.down // layer.up
                for place in (spans[0][0], spans[0][1] + layer.up - 1)
            )
            start, end = start - layer.reach, end + layer.reach
            start, end = start // layer.down * layer.down, -(-end // layer.down) * layer.down
            spans.insert(0, (max(0, start), min(end, sides[axis])))
        return spans

    def part(self, rows: Span, columns: Span) -> Maps:
        """These places of the last maps."""
        down, across = self.spans(rows, axis=0), self.spans(columns, axis=1)
        maps = self.kept.part(down[0], across[0])
        for number, (layer, known) in enumerate(zip(self.layers, self.known, strict=True)):
            inside = [_inside(layer, *spans[number : number + 2]) for spans in (down, across)]
            maps = tuple(one[..., inside[0], inside[1]] for one in layer.run(maps, known))
        return maps


def _inside(layer: Layer, before: Span, after: Span) -> slice:
    """Where ``after`` lies in what a layer makes of ``before``."""
    start = before[0] * layer.up // layer.down
    return slice(after[0] - start, after[1] - start)


def through(layers: Sequence[Layer], way: Way, counts: Counts, hold: int) -> Tensor:
    """What the layers make of the one map (1, c, h, w) at the end of the way, in ``counts`` tiles
    down and across."""
    for layer in layers:
        known = None
        if layer.norm is not None or (way.layers and layer.reach):
            made, known = _sweep(way, counts, hold, layer.norm)
            if made is not None:
                _forget(*(one.part for one in way.layers))
                way = Way(made)
        way = way.further(layer, known)
    whole, _ = _sweep(way, counts)
    assert whole is not None
    (image,) = whole.part(*((0, side) for side in whole.sides))
    return image


def _sweep(
    way: Way, counts: Counts, hold: float = math.inf, norm: GroupNorm | None = None
) -> tuple[Kept | None, Moments | None]:
    """The maps at the end of the way if they are at most ``hold`` bytes, and the moments of the
    last one for ``norm``.

    If they are held, what they are made from is let go."""
    height, width = way.sides()[-1]
    made, sums, fits = Kept(), torch.zeros(()), False
    for rows, columns in product(_spans(height, counts[0]), _spans(width, counts[1])):
        maps = way.part(rows, columns)
        fits = sum(one.shape[1] * one.itemsize for one in maps) * height * width <= hold
        if norm is not None:
            sums = sums.to(maps[-1].device) + norm.sums(maps[-1])
        if fits:
            made.add(maps, columns, width)
            way.kept.let_go(way.spans(rows, axis=0)[0][0])
        elif norm is None:
            break
    return made if fits else None, None if norm is None else moments(sums)


def _spans(side: int, count: int) -> list[Span]:
    """An axis in at most so many parts, alike but for the last."""
    step = math.ceil(side / count)
    return [(start, min(start + step, side)) for start in range(0, side, step)]


def _forget(*parts: object) -> None:
    """Let go what kernels derived from weights that are not used again for this image."""
    for part in parts:
        for one in part.modules() if isinstance(part, nn.Module) else ():
            if isinstance(one, Convolution3):
                one.forget()
