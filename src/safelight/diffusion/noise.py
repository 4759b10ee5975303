"""Sources of noise.

Every sample has a stream of its own, drawn on the CPU, so that its draws are the same bits alone,
in any batch, at any place in it, and on any device.

Sampling draws from a source, which remembers where it is (``SeededNoise``, ``RecordedNoise``) or is
keyed by the interval of times (``BrownianNoise``). Training draws are keyed by the position of the
sample in the data, so that neither a resume nor the number of machines changes them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.shapes import Shape

_MASK = 2**64 - 1
_GRID_BITS = 24
_GRID = 1 << _GRID_BITS


class SeededNoise:
    """One stream a sample, each call drawing on from where the last one ended.

    Calls raise BadInput if the batch is not as long as the seeds.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        _require_seeds(seeds)
        # A generator uses the low 32 bits only: fold in the high ones, so that large seeds differ
        # as well.
        self._streams = [
            torch.Generator().manual_seed((seed ^ seed >> 32) & 0xFFFFFFFF) for seed in seeds
        ]

    def __call__(self, shape: Shape, interval: tuple[float, float] | None = None) -> Tensor:
        _require_batch(shape, len(self._streams))
        return torch.stack([torch.randn(shape[1:], generator=stream) for stream in self._streams])


class BrownianNoise:
    """The increments of one Brownian path a sample, each scaled to unit variance.

    Increments of neighbouring intervals add up to that of the whole, so that a run with other steps
    follows the same path. Times are rounded to 15 binary digits, down to 2⁻²⁴. The path at one of
    them is a sum of some 15 draws, each from (seed, node), under the hat functions of Lévy and
    Ciesielski; in an increment the hats cancel, not their sums. Calls raise BadInput without an
    interval of two times in [0, 1] that differ once rounded, or if the batch is not as long as the
    seeds.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        _require_seeds(seeds)
        self._seeds = tuple(seeds)
        self._stream = torch.Generator()
        # The draws of the last increment: the next one begins at one of its ends, and ends near it.
        self._kept: dict[Shape, dict[int, Tensor]] = {}

    def __call__(self, shape: Shape, interval: tuple[float, float] | None = None) -> Tensor:
        _require_batch(shape, len(self._seeds))
        first, last = sorted(_node(t) for t in interval or (0.0, 0.0))
        fits = 0 <= first < last <= _GRID
        require(
            fits,
            "an interval must join two times in 0 to 1, some 1/30000 of them apart",
            interval,
            "name its ends",
        )
        shares = _hats(last)
        for node, share in _hats(first).items():
            shares[node] = shares.get(node, 0.0) - share
        kept = self._kept.get(shape, {})
        self._kept[shape] = {
            node: kept[node] if node in kept else self._draw(node, shape[1:]) for node in shares
        }
        length, total = math.sqrt((last - first) / _GRID), torch.zeros(shape)
        for node, share in shares.items():
            total += (
                share / length * self._kept[shape][node]
            )  # rounded twice: fused, the bits would depend on the batch
        return total

    def _draw(self, node: int, shape: Shape) -> Tensor:
        keys = [_key(seed, "brownian", node) for seed in self._seeds]
        return torch.stack(
            [torch.randn(shape, generator=self._stream.manual_seed(key)) for key in keys]
        )


def _node(t: float) -> int:
    """The place of ``t`` on the grid, rounded to 15 binary digits."""
    cell = 1 << max(math.frexp(t)[1] + _GRID_BITS - 15, 0)
    return round(t * _GRID / cell) * cell


def _hats(node: int) -> dict[int, float]:
    """The path at ``node`` as shares of standard draws: of where it ends, and of how it strays from
    the line between two nodes half-way, at every halving on the way."""
    shares, low, high = {_GRID: node / _GRID}, 0, _GRID
    while low < node < high:
        middle, half = (low + high) // 2, (high - low) / 2
        shares[middle] = math.sqrt(half / 2 / _GRID) * (1 - abs(node - middle) / half)
        low, high = (low, middle) if node < middle else (middle, high)
    return shares


class RecordedNoise:
    """Replays ``draws`` in their order. Calls raise BadInput when none is left, or when it has
    another shape."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self._draws = list(draws)
        self._next = 0

    def __call__(self, shape: Shape, interval: tuple[float, float] | None = None) -> Tensor:
        count = len(self._draws)
        require(
            self._next < count,
            f"a recording of {count} draws was asked for more",
            self._next + 1,
            "record more",
        )
        draw = self._draws[self._next]
        require(
            draw.shape == shape,
            f"recorded noise must be {tuple(shape)}",
            tuple(draw.shape),
            "replay what was asked",
        )
        self._next += 1
        return draw


def sample_noise(
    seed: int, positions: Sequence[int] | Tensor, shape: Shape, stream: str = "noise"
) -> Tensor:
    """Standard normal draws of ``shape`` (b, …) for the samples at ``positions`` (b,) of the data.

    Draws of different ``stream`` are independent. Raises BadInput if the two lengths differ.
    """
    _require_batch(shape, len(positions))
    generator = torch.Generator()
    seeds = [_key(seed, stream, int(position)) for position in positions]
    return torch.stack(
        [torch.randn(shape[1:], generator=generator.manual_seed(key)) for key in seeds]
    )


def sample_uniform(seed: int, positions: Sequence[int] | Tensor, stream: str = "uniform") -> Tensor:
    """Uniform draws (b,) in float64, strictly between 0 and 1, for the samples at ``positions`` of
    the data."""
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


def _require_seeds(seeds: Sequence[int]) -> None:
    valid = all(0 <= seed <= _MASK for seed in seeds)
    require(valid, "seeds must be from 0 to 2⁶⁴ - 1", tuple(seeds), "take smaller ones")


def _require_batch(shape: Shape, count: int) -> None:
    require(
        shape[0] == count,
        f"noise for {count} samples must have that batch",
        tuple(shape),
        "one seed a sample",
    )
