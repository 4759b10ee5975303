"""Figures with intervals: the bootstrap (Efron 1979) and, for shares of few cases, Wilson's
interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import torch
from torch import Tensor

LEVEL = 0.95
"""The share of cases that an interval covers."""


@dataclass(frozen=True)
class Figure:
    """One measured number: its interval, the pictures it is made of, and the network that saw them.

    ``chance`` is what guessing reaches and ``checker`` how often the checker is right on real
    pictures, where these mean something. ``low`` and ``high`` are None where no interval is known.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0
    features: str = ""
    chance: float | None = None
    checker: float | None = None
    note: str = ""

    def text(self, percent: bool = False, digits: int = 3) -> str:
        """The value with its interval, for people."""
        numbers = [number for number in (self.value, self.low, self.high) if number is not None]
        shown = [f"{100 * n:.0f} %" if percent else f"{n:.{digits}g}" for n in numbers]
        return shown[0] if len(shown) < 3 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def weights(count: int, repeats: int, generator: torch.Generator) -> Tensor:
    """How often each of ``count`` pictures is drawn in each bootstrap sample: (repeats, count)."""
    draws = torch.randint(count, (repeats, count), generator=generator)
    return torch.zeros(repeats, count, dtype=torch.float64).scatter_add_(
        1, draws, torch.ones(repeats, count, dtype=torch.float64)
    )


def percentiles(values: Tensor, level: float = LEVEL) -> tuple[float, float]:
    """The central ``level`` of bootstrap values."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(values.double(), tails).tolist()
    return low, high


def centred(value: float, values: Tensor, level: float = LEVEL) -> tuple[float, float]:
    """``value`` with the spread of bootstrap values about their own mean.

    A bootstrap sample repeats pictures, so biased statistics such as the Fréchet distance are
    larger on it. The spread says how far another draw of pictures would be; the bias is left out.
    """
    low, high = percentiles(values - values.double().mean(), level)
    return value + low, value + high


def mean(name: str, values: Tensor, repeats: int, generator: torch.Generator) -> Figure:
    """The mean of values of pictures (n,) with its bootstrap interval."""
    values = values.double()
    count = len(values)
    drawn = weights(count, repeats, generator) @ values / count
    low, high = percentiles(drawn)
    return Figure(name, float(values.mean()), low, high, count)


def bootstrap(
    statistic: Callable[..., float],
    samples: Sequence[Tensor],
    repeats: int,
    generator: torch.Generator,
) -> Tensor:
    """``statistic`` of sets whose pictures are drawn anew, each set for itself: (repeats,)."""
    values = []
    for _ in range(repeats):
        places = [
            torch.randint(len(vectors), (len(vectors),), generator=generator) for vectors in samples
        ]
        values.append(statistic(*(x[i] for x, i in zip(samples, places, strict=True))))
    return torch.tensor(values, dtype=torch.float64)


def wilson(successes: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), which holds for few cases and at 0 and 1."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(name: str, successes: int, count: int, chance: float | None = None) -> Figure:
    """A share of ``count`` cases with Wilson's interval."""
    low, high = wilson(successes, count)
    return Figure(name, successes / count, low, high, count, chance=chance)
