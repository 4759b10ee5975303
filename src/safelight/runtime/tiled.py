"""Tiling: images of any size through an autoencoder, in bounded memory, with the exact result."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.kernels.convolution import Convolution3
from safelight.nn.local_layers import LocalLayer, Maps, Tileable
from safelight.nn.norms import GroupNorm, Moments, moments
from safelight.types.networks import Autoencoder, Encoding
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents

Counts: TypeAlias = tuple[int, int]
"""Tiles down and across."""
Span: TypeAlias = tuple[int, int]
"""Places along one axis: from, and up to but not including."""


class Tiled:
    """An autoencoder whose local layers run in tiles of ``tile`` pixels, with the exact result.

    The global part, which attends to all places, runs on the whole image at the size of its
    features. The local part runs layer by layer: a tile includes the neighbours that its layers
    see, and group norms get the moments of the whole map. Feature maps between layers are stored if
    they have at most ``hold`` bytes, and released while the next are computed. Larger ones are
    computed again, from the last that were stored, for each norm that follows. Memory is thus that
    of the global part, or ``hold`` and some tiles; less memory costs time. ``docs/judging.md`` has
    figures.
    """

    def __init__(self, autoencoder: Autoencoder, tile: int = 128, hold: int = 2**30) -> None:
        if tile < 1 or hold < 0:
            raise BadInput(
                "tiles: wanted tiles of at least 1 pixel and 0 bytes or more to hold, got "
                f"{tile}, {hold}."
            )
        if not isinstance(autoencoder, Tileable):
            raise BadInput(
                f"tiles: a {type(autoencoder).__name__} cannot run in tiles; use it without."
            )
        self.autoencoder, self.factor, self.last_layer = (
            autoencoder,
            autoencoder.factor,
            autoencoder.last_layer,
        )
        self.tile, self.hold, self._parts = tile, hold, autoencoder

    @torch.no_grad()
    def encode(self, images: Images) -> Encoding:
        """As the autoencoder itself."""
        self.latent_shape(tuple(images.shape))
        layers, counts = self._parts.encode_local(), self._counts(*images.shape[-2:])
        if counts == (1, 1):
            return self.autoencoder.encode(images)
        near = [
            run_tiled(layers, PendingLayers(StoredMaps(image)), counts, self.hold)
            for image in torch.split(images, 1)
        ]
        return self._parts.encode_global(torch.cat(near))

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """As the autoencoder itself."""
        layers, counts = (
            self._parts.decode_local(),
            self._counts(*(self.factor * side for side in latents.shape[-2:])),
        )
        if counts == (1, 1):
            return self.autoencoder.decode(latents)
        images = []
        for sample in torch.split(latents, 1):
            pending = PendingLayers(StoredMaps(self._parts.decode_global(sample)))
            _release_derived_weights(self.autoencoder)
            images.append(run_tiled(layers, pending, counts, self.hold).to(latents.dtype))
        return torch.cat(images)

    def regularisers(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """As the autoencoder itself."""
        return self.autoencoder.regularisers(encoding)

    def latent_shape(self, image_shape: Shape) -> Shape:
        """As the autoencoder itself."""
        return self.autoencoder.latent_shape(image_shape)

    def _counts(self, height: int, width: int) -> Counts:
        return math.ceil(height / self.tile), math.ceil(width / self.tile)


class StoredMaps:
    """The feature maps of one image, in strips from top to bottom that can be released early."""

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
        """Add a tile: right of the one before it or, if it begins at the left, below it."""
        if columns[0] == 0:
            self._strips.append(tuple(_empty_strip(one, width) for one in maps))
        for strip, one in zip(self._strips[-1], maps, strict=True):
            strip[..., slice(*columns)] = one

    def part(self, rows: Span, columns: Span) -> Maps:
        """A copy of these places of each map."""
        parts: list[Maps] = []
        top = self._top
        for strip in self._strips:
            bottom = top + strip[0].shape[-2]
            if top < rows[1] and rows[0] < bottom:
                inside = slice(max(0, rows[0] - top), rows[1] - top)
                parts.append(tuple(one[..., inside, slice(*columns)] for one in strip))
            top = bottom
        return tuple(torch.cat(rows_of_map, dim=-2) for rows_of_map in zip(*parts, strict=True))

    def release(self, above: int) -> None:
        """Release the rows ``above`` this one, unless they are less than half a strip."""
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


def _empty_strip(tile: Tensor, width: int) -> Tensor:
    """An empty strip as high as the tile, in its memory format."""
    layout = torch.channels_last if tile.stride(1) == 1 else torch.contiguous_format
    return torch.empty(
        (*tile.shape[:3], width), dtype=tile.dtype, device=tile.device, memory_format=layout
    )


@dataclass(frozen=True)
class PendingLayers:
    """Stored maps and the layers that are to run on them, each with the moments of its norm."""

    kept: StoredMaps
    layers: tuple[LocalLayer, ...] = ()
    known: tuple[Moments | None, ...] = ()

    def with_layer(self, layer: LocalLayer, known: Moments | None) -> "PendingLayers":
        """The same with one more layer."""
        return PendingLayers(self.kept, (*self.layers, layer), (*self.known, known))

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
            start, end = start - layer.radius, end + layer.radius
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


def _inside(layer: LocalLayer, before: Span, after: Span) -> slice:
    """Where ``after`` lies in what a layer makes of ``before``."""
    start = before[0] * layer.up // layer.down
    return slice(after[0] - start, after[1] - start)


def run_tiled(
    layers: Sequence[LocalLayer], pending: PendingLayers, counts: Counts, hold: int
) -> Tensor:
    """The map (1, c, h, w) after the layers, computed in ``counts`` tiles down and across."""
    for layer in layers:
        known = None
        if layer.norm is not None or (pending.layers and layer.radius):
            made, known = _run_tiles(pending, counts, hold, layer.norm)
            if made is not None:
                _release_derived_weights(*(one.part for one in pending.layers))
                pending = PendingLayers(made)
        pending = pending.with_layer(layer, known)
    whole, _ = _run_tiles(pending, counts)
    assert whole is not None
    (image,) = whole.part(*((0, side) for side in whole.sides))
    return image


def _run_tiles(
    pending: PendingLayers, counts: Counts, hold: float = math.inf, norm: GroupNorm | None = None
) -> tuple[StoredMaps | None, Moments | None]:
    """The maps after the pending layers if they fit in ``hold`` bytes, and the moments for
    ``norm``.

    If they are stored, what they are computed from is released.
    """
    height, width = pending.sides()[-1]
    made, sums, fits = StoredMaps(), torch.zeros(()), False
    for rows, columns in product(_spans(height, counts[0]), _spans(width, counts[1])):
        maps = pending.part(rows, columns)
        fits = sum(one.shape[1] * one.itemsize for one in maps) * height * width <= hold
        if norm is not None:
            sums = sums.to(maps[-1].device) + norm.sums(maps[-1])
        if fits:
            made.add(maps, columns, width)
            pending.kept.release(pending.spans(rows, axis=0)[0][0])
        elif norm is None:
            break
    return made if fits else None, None if norm is None else moments(sums)


def _spans(side: int, count: int) -> list[Span]:
    """An axis in at most ``count`` spans, equal except for the last."""
    step = math.ceil(side / count)
    return [(start, min(start + step, side)) for start in range(0, side, step)]


def _release_derived_weights(*parts: object) -> None:
    """Release what kernels derived from weights that are not used again for this image."""
    for part in parts:
        for one in part.modules() if isinstance(part, nn.Module) else ():
            if isinstance(one, Convolution3):
                one.forget()
