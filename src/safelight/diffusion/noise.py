"""Where noise comes from. Every sample has a stream of its own, drawn on the CPU: the draws of a sample are the same
bits alone, in any batch, at any place in it, and on any device.

Sampling draws from a source, which remembers where it is (``SeededNoise``, ``RecordedNoise``) or is keyed by the
interval of times (``BrownianNoise``). Training draws are keyed by the position of the sample in the data, so that
neither a resume nor the number of machines changes them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from safelight.diffusion.checks import demand
from safelight.types import Shape

_MASK = 2**64 - 1


class SeededNoise:
    """One stream a sample, each call drawing on from where the last one ended.

    Calls raise BadInput if the batch is not as long as the seeds.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        _demand_seeds(seeds)
        # A generator hears the low 32 bits only: fold in the high ones, so that large seeds differ as well.
        self._streams = [torch.Generator().manual_seed((seed ^ seed >> 32) & 0xFFFFFFFF) for seed in seeds]

    def __call__(self, shape: Shape, interval: tuple[float, float] | None = None) -> Tensor:
        _demand_batch(shape, len(self._streams))
        return torch.stack([torch.randn(shape[1:], generator=stream) for stream in self._streams])


class BrownianNoise:
    """The increments of one Brownian path a sample, each scaled to unit variance.

    Increments of neighbouring intervals add up to that of the whole, so that a run with other steps follows the same
    path. The path lives on a grid of 2⁻²⁴ and is found by halving (a Brownian bridge), each node drawn from (seed,
    node). Calls raise BadInput without an interval of two times of the grid in [0, 1], or if the batch is not as long
    as the seeds.
    """

    _grid = 2**24

    def __init__(self, seeds: Sequence[int]) -> None:
        _demand_seeds(seeds)
        self._seeds = tuple(seeds)
        # Nodes on the way to the last two times of each seed: the next step begins at one of them, and ends near it.
        self._found: dict[tuple[int, Shape], dict[int, Tensor]] = {}

    def __call__(self, shape: Shape, interval: tuple[float, float] | None = None) -> Tensor:
        _demand_batch(shape, len(self._seeds))
        first, last = sorted(round(t * self._grid) for t in interval or (0.0, 0.0))
        demand(0 <= first < last <= self._grid, "an interval must join two times in 0 to 1", interval, "name its ends")
        increments = [self._increment(seed, first, last, shape[1:]) for seed in self._seeds]
        return (torch.stack(increments) / math.sqrt(last - first)).float()

    def _increment(self, seed: int, first: int, last: int, shape: Shape) -> Tensor:
        known = self._found.get((seed, shape), {})
        found: dict[int, Tensor] = {}
        increment = self._path(seed, last, shape, known, found) - self._path(seed, first, shape, known, found)
        self._found[seed, shape] = found
        return increment

    def _path(self, seed: int, node: int, shape: Shape, known: dict[int, Tensor], found: dict[int, Tensor]) -> Tensor:
        """The path at ``node``, whose variance is ``node``. Nodes on the way are taken from ``known`` or ``found``."""

        def at(place: int, base: Tensor | None, spread: float) -> Tensor:
            if place not in found:
                value = known.get(place)
                found[place] = value if value is not None else spread * draw(place) + (0 if base is None else base)
            return found[place]

        def draw(at: int) -> Tensor:
            stream = torch.Generator().manual_seed(_key(seed, "brownian", at))
            return torch.randn(shape, generator=stream).double()  # four times as fast as drawn in double precision

        low, high = 0, self._grid
        below, above = torch.zeros(shape, dtype=torch.float64), at(high, None, math.sqrt(high))
        while low < node < high:
            middle = (low + high) // 2
            between = at(middle, (below + above) / 2, math.sqrt((high - low) / 4))
            if node < middle:
                high, above = middle, between
            else:
                low, below = middle, between
        return below if node == low else above


class RecordedNoise:
    """Replays ``draws`` in their order. Calls raise BadInput when none is left, or when it has another shape."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self._draws = list(draws)
        self._next = 0

    def __call__(self, shape: Shape, interval: tuple[float, float] | None = None) -> Tensor:
        count = len(self._draws)
        demand(self._next < count, f"a recording of {count} draws was asked for more", self._next + 1, "record more")
        draw = self._draws[self._next]
        demand(
            draw.shape == shape, f"recorded noise must be {tuple(shape)}", tuple(draw.shape), "replay what was asked"
        )
        self._next += 1
        return draw


def sample_noise(seed: int, positions: Sequence[int] | Tensor, shape: Shape, stream: str = "noise") -> Tensor:
    """Standard normal draws of ``shape`` (b, …) for the samples at ``positions`` (b,) of the data.

    Draws of different ``stream`` are independent. Raises BadInput if the two lengths differ.
    """
    _demand_batch(shape, len(positions))
    generator = torch.Generator()
    seeds = [_key(seed, stream, int(position)) for position in positions]
    return torch.stack([torch.randn(shape[1:], generator=generator.manual_seed(key)) for key in seeds])


def sample_uniform(seed: int, positions: Sequence[int] | Tensor, stream: str = "uniform") -> Tensor:
    """Uniform draws (b,) in float64, strictly between 0 and 1, for the samples at ``positions`` of the data."""
    keys = [_key(seed, stream, int(position)) for position in positions]
    return torch.tensor([((key >> 12) + 0.5) / 2**52 for key in keys], dtype=torch.float64)


def _key(seed: int, stream: str, position: int) -> int:
    """A 64-bit key of all three, by SplitMix64 (Steele et al., OOPSLA 2014) between them."""
    key = 0
    for part in (seed, zlib.crc32(stream.encode()), position):
        key = ((key ^ part) + 0x9E3779B97F4A7C15) & _MASK
        key = ((key ^ key >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        key = ((key ^ key >> 27) * 0x94D049BB133111EB) & _MASK
        key ^= key >> 31
    return key


def _demand_seeds(seeds: Sequence[int]) -> None:
    fits = all(0 <= seed <= _MASK for seed in seeds)
    demand(fits, "seeds must be from 0 to 2⁶⁴ - 1", tuple(seeds), "take smaller ones")


def _demand_batch(shape: Shape, count: int) -> None:
    demand(shape[0] == count, f"noise for {count} samples must have that batch", tuple(shape), "one seed a sample")
