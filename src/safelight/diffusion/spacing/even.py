"""Times that are even in t, in its square root, or in the entries of a training table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.spacing._rules import ramp, require_steps, require_table, with_zero
from safelight.types.diffusion import Schedule, Spacing


@dataclass(frozen=True)
class Uniform(Spacing):
    """Even from ``begin`` to 0: the "trailing" spacing of tables (arXiv 2305.08891, table 2)."""

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return begin * ramp(steps, begin)


@dataclass(frozen=True)
class Leading(Spacing):
    """Every n-th entry of a training table, counted from its clean end.

    DDIM as Stable Diffusion runs it. Entry k lies at t = (k + 1) / ``table``; the lowest one
    visited is ``offset``. It never visits t = 1. The last step goes to 0, or, with ``to_first``, to
    the first entry of the table, as in the first DDIM of Stable Diffusion. Raises BadInput if the
    table has too few entries for the steps.
    """

    table: int = 1000
    offset: int = 1
    to_first: bool = False

    def __post_init__(self) -> None:
        require_table(self.table)
        require(
            0 <= self.offset < self.table,
            "offset must be an entry of the table",
            self.offset,
            "1 is usual",
        )

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        require_steps(steps, begin)
        entries = round(self.table * begin)
        stride = entries // steps
        require(
            stride > 0 and self.offset + stride * (steps - 1) < entries,
            f"leading spacing must find its steps among {entries} entries",
            steps,
            "take fewer, or uniform",
        )
        visited = self.offset + stride * torch.arange(steps - 1, -1, -1, dtype=torch.float64)
        if self.to_first and self.offset > 0:
            return torch.cat([visited + 1, visited.new_ones(1)]) / self.table
        return with_zero((visited + 1) / self.table)


@dataclass(frozen=True)
class Linspace(Spacing):
    """Even from ``begin`` to the first entry of a training table, then a last step to 0.

    That entry lies at t = 1 / ``table``, so that both ends of the table are visited (arXiv
    2305.08891, table 2). Raises BadInput if ``table`` is below 2.
    """

    table: int = 1000

    def __post_init__(self) -> None:
        require_table(self.table)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        require_steps(steps, begin)
        require(
            begin > 1 / self.table,
            f"begin must be above the first entry, {1 / self.table}",
            begin,
            "begin earlier",
        )
        return with_zero(torch.linspace(begin, 1 / self.table, steps, dtype=torch.float64))


@dataclass(frozen=True)
class Quadratic(Spacing):
    """Even in the root of t: most steps are near clean (DDIM, arXiv 2010.02502, appendix D.2)."""

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return begin * ramp(steps, begin) ** 2


@dataclass(frozen=True)
class LCM(Spacing):
    """Some of the even times that a latent consistency model was distilled at.

    arXiv 2310.04378, as diffusers runs it: there ``original_inference_steps``.
    """

    original_steps: int = 50

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        trained = int(self.original_steps * begin)
        require(
            1 <= steps <= trained,
            f"lcm spacing must find its steps among {trained} times",
            steps,
            "take fewer",
        )
        skipped = (torch.arange(steps).double() * (trained / steps)).floor()
        return with_zero((trained - skipped) / self.original_steps)
