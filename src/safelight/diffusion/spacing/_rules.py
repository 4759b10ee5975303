"""What several kinds of spacing share."""

from __future__ import annotations

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.diffusion import Schedule


def require_steps(steps: int, begin: float) -> None:
    """Raises BadInput for steps outside 1 to 10,000 and for a begin outside (0, 1]."""
    require(1 <= steps <= 10_000, "steps must be from 1 to 10000", steps, "20 to 50 is usual")
    require(
        0 < begin <= 1, "begin must be above 0 and at most 1", begin, "1 starts from pure noise"
    )


def require_table(table: int) -> None:
    """Raises BadInput for a training table of fewer than 2 entries."""
    require(table >= 2, "table must have 2 entries or more", table, "1000 is usual")


def ramp(steps: int, begin: float) -> Tensor:
    """``steps + 1`` values falling evenly from 1 to 0."""
    require_steps(steps, begin)
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def with_zero(times: Tensor) -> Tensor:
    """``times`` with a last step to 0, clean."""
    return torch.cat([times, times.new_zeros(1)])


def ratio_at(schedule: Schedule, t: float) -> float:
    """sigma / alpha at ``t``."""
    level = schedule(torch.tensor(t, dtype=torch.float64))
    return float(level.sigma / level.alpha)
