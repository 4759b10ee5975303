"""Times whose ratios sigma / alpha (the sigmas of k-diffusion) fall by a rule, then a step to 0.

The ends of all are ratios. ``sigma_max`` is never above that of ``begin``, which is its default; if
``begin`` is pure noise, that of a thousandth before it is taken. ``sigma_min`` is by default that
of t = 1/1000. All raise BadInput unless 0 < sigma_min < sigma_max.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.spacing._rules import ratio_at, require_steps, with_zero
from safelight.types.diffusion import Schedule, Spacing


@dataclass(frozen=True)
class Karras(Spacing):
    """Even in (sigma / alpha)^(1 / rho) (EDM, arXiv 2206.00364, eq. 5), then a last step to 0.

    Raises BadInput unless 0 < sigma_min < sigma_max and rho > 0.
    """

    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        _require_ratios(self.rho, self.sigma_min, self.sigma_max)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        low, high = _ends(steps, schedule, begin, self.sigma_min, self.sigma_max)
        root = 1 / self.rho
        roots = torch.linspace(high**root, low**root, steps, dtype=torch.float64)
        return with_zero(schedule.when(-self.rho * roots.log()))


@dataclass(frozen=True)
class Polyexponential(Spacing):
    """log(sigma / alpha) falls as the power ``rho`` of an even ramp (k-diffusion), then to 0.

    Raises BadInput unless 0 < sigma_min < sigma_max and rho > 0.
    """

    rho: float = 1.5
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        _require_ratios(self.rho, self.sigma_min, self.sigma_max)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        low, high = _ends(steps, schedule, begin, self.sigma_min, self.sigma_max)
        ramp = torch.linspace(1, 0, steps, dtype=torch.float64) ** self.rho
        return with_zero(schedule.when(-(ramp * math.log(high / low) + math.log(low))))


@dataclass(frozen=True)
class Exponential(Spacing):
    """Even in log-SNR, as in DPM-Solver (arXiv 2206.00927, section 3.4), then a last step to 0.

    Raises BadInput unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        _require_ratios(1.0, self.sigma_min, self.sigma_max)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return Polyexponential(1.0, self.sigma_min, self.sigma_max)(steps, schedule, begin)


def _ends(
    steps: int, schedule: Schedule, begin: float, sigma_min: float | None, sigma_max: float | None
) -> tuple[float, float]:
    """The lowest and the highest ratio sigma / alpha that are visited, but for 0."""
    require_steps(steps, begin)
    high = ratio_at(schedule, begin)
    if high == math.inf:
        high = ratio_at(schedule, 0.999 * begin)
    high = min(high, sigma_max or math.inf)
    low = sigma_min or ratio_at(schedule, 0.001)
    require(
        low < high,
        f"sigma_min must be below where the steps begin, {high:.4g}",
        low,
        "lower it",
    )
    return low, high


def _require_ratios(rho: float, sigma_min: float | None, sigma_max: float | None) -> None:
    require(
        0 < rho < math.inf, "rho must be above 0", rho, "7 is usual for Karras, 1 is exponential"
    )
    ends = (sigma_min, sigma_max)
    require(
        all(end is None or 0 < end < math.inf for end in ends),
        "sigmas must be above 0",
        ends,
        "None: the schedule's",
    )
