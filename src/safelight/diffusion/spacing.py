"""Which times a sampler visits: ``steps + 1`` of them in float64, strictly falling and ending in 0.

The first is ``begin``, or as near below it as the spacing visits: make the noisy latents at the level of ``times[0]``.
All raise BadInput for steps outside 1 to 10,000 and for a begin outside (0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.diffusion.checks import demand
from safelight.types import Schedule


@dataclass(frozen=True)
class Uniform:
    """Evenly from ``begin`` to 0: the "trailing" spacing of tables (arXiv 2305.08891, table 2)."""

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return begin * _falling(steps, begin)


@dataclass(frozen=True)
class Leading:
    """Every n-th entry of a training table counted from its clean end (DDIM as Stable Diffusion runs it).

    Entry k lies at t = (k + 1) / ``table``; the first visited is ``offset``. It never visits t = 1. Raises BadInput
    if the table has too few entries for the steps.
    """

    table: int = 1000
    offset: int = 1

    def __post_init__(self) -> None:
        demand(self.table >= 2, "table must have 2 entries or more", self.table, "1000 is usual")
        demand(0 <= self.offset < self.table, "offset must be an entry of the table", self.offset, "1 is usual")

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        _demand_walk(steps, begin)
        reach = round(self.table * begin)
        stride = reach // steps
        fits = stride > 0 and self.offset + stride * (steps - 1) < reach
        demand(fits, f"leading spacing must find its steps among {reach} entries", steps, "take fewer, or uniform")
        nodes = self.offset + stride * torch.arange(steps - 1, -1, -1, dtype=torch.float64)
        return torch.cat([(nodes + 1) / self.table, nodes.new_zeros(1)])


@dataclass(frozen=True)
class Karras:
    """Evenly in (sigma / alpha)^(1 / rho) (EDM, arXiv 2206.00364, eq. 5), then a last step to 0.

    The ends are ratios sigma / alpha. ``sigma_max`` is never above that of ``begin``, which is its default; where that
    is pure noise, it is taken a thousandth before. ``sigma_min`` is by default that of t = 1/1000. Raises BadInput
    unless 0 < sigma_min < sigma_max and rho > 0.
    """

    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        demand(0 < self.rho < math.inf, "rho must be above 0", self.rho, "7 is usual")
        ends = (self.sigma_min, self.sigma_max)
        demand(
            all(end is None or 0 < end < math.inf for end in ends),
            "sigmas must be above 0",
            ends,
            "None takes the schedule's",
        )

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        _demand_walk(steps, begin)
        top = _ratio(schedule, begin)
        top = min(top if top < math.inf else _ratio(schedule, 0.999 * begin), self.sigma_max or math.inf)
        bottom = self.sigma_min or _ratio(schedule, 0.001)
        demand(bottom < top, f"sigma_min must be below where the steps begin, {top:.4g}", bottom, "lower it")
        ramp = torch.linspace(top ** (1 / self.rho), bottom ** (1 / self.rho), steps, dtype=torch.float64)
        times = schedule.when(-self.rho * ramp.log())
        return torch.cat([times, times.new_zeros(1)])


@dataclass(frozen=True)
class Shifted:
    """Uniform, moved towards noise as larger pictures want it: t' = s·t / (1 + (s - 1)·t) (arXiv 2403.03206, eq. 23).

    ``begin`` is a time after the shift. Raises BadInput if ``shift`` is not positive.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        demand(0 < self.shift < math.inf, "shift must be above 0", self.shift, "1 is uniform, 3 is usual")

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        falling = _falling(steps, begin)
        t = begin / (self.shift - (self.shift - 1) * begin) * falling  # from the time that is shifted to begin
        return self.shift * t / (1 + (self.shift - 1) * t)


def _falling(steps: int, begin: float) -> Tensor:
    _demand_walk(steps, begin)
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _ratio(schedule: Schedule, t: float) -> float:
    level = schedule(torch.tensor(t, dtype=torch.float64))
    return float(level.sigma / level.alpha)


def _demand_walk(steps: int, begin: float) -> None:
    demand(1 <= steps <= 10_000, "steps must be from 1 to 10000", steps, "20 to 50 is usual")
    demand(0 < begin <= 1, "begin must be above 0 and at most 1", begin, "1 starts from pure noise")
