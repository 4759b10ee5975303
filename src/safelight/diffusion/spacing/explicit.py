"""Times or sigmas that are listed explicitly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.spacing._rules import require_steps
from safelight.types.diffusion import Schedule, Spacing


@dataclass(frozen=True)
class Times(Spacing):
    """These times: one more than the steps.

    Raises BadInput unless they fall strictly from 1 or below to 0 or above, and, when called,
    unless they are as many as the steps need and none is above ``begin``.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_falling("times", self.times)
        require(self.times[0] <= 1, "times must be at most 1", self.times, "1 is pure noise")

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return _checked(torch.tensor(self.times, dtype=torch.float64), steps, begin)


@dataclass(frozen=True)
class Sigmas(Spacing):
    """The times of these ratios sigma / alpha (the sigmas of k-diffusion), as ``Times``."""

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_falling("sigmas", self.sigmas)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        times = schedule.when(-torch.tensor(self.sigmas, dtype=torch.float64).log())
        require(
            bool((times.diff() < 0).all()),
            "sigmas must lie within the schedule",
            self.sigmas,
            "lower the first",
        )
        return _checked(times, steps, begin)


def _require_falling(name: str, values: tuple[float, ...]) -> None:
    require(len(values) > 1, f"{name} must have two ends or more", values, "end them in 0")
    falls = all(above > below for above, below in pairwise((math.inf, *values)))
    require(falls and values[-1] >= 0, f"{name} must fall to 0 or above", values, "sort them")


def _checked(times: Tensor, steps: int, begin: float) -> Tensor:
    """``times``; BadInput if they do not suit ``steps`` and ``begin``."""
    require_steps(steps, begin)
    require(
        len(times) == steps + 1,
        f"{len(times)} given levels are {len(times) - 1} steps",
        steps,
        "ask for those",
    )
    require(
        float(times[0]) <= begin,
        f"given levels must not pass begin = {begin}",
        float(times[0]),
        "lower them",
    )
    return times
