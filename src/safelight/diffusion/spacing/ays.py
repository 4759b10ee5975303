"""Align Your Steps: noise levels that were optimised for families of models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.spacing._rules import ratio_at, require_steps, with_zero
from safelight.types.diffusion import Schedule, Spacing


@dataclass(frozen=True)
class AYS(Spacing):
    """Align Your Steps (arXiv 2404.14507): levels optimised for ten steps of a model ``family``.

    The families are ``sd1``, ``sdxl`` and ``svd``. For another number of steps the logarithm of the
    levels is interpolated, as published. Levels above that of ``begin`` are left out and the rest
    interpolated. Raises BadInput for another family, or if ``begin`` lies below all of its levels.
    """

    family: str = "sd1"

    _RATIOS: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
        "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
        "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
    }

    def __post_init__(self) -> None:
        require(
            self.family in self._RATIOS,
            f"family must be one of {', '.join(self._RATIOS)}",
            self.family,
            "take the nearest",
        )

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        require_steps(steps, begin)
        levels = torch.tensor(self._RATIOS[self.family], dtype=torch.float64).log()
        top = math.log(min(ratio_at(schedule, begin), float(levels[0].exp())))
        require(
            top > float(levels[-1]),
            "begin must lie above the last level of the table",
            begin,
            "begin earlier",
        )
        levels = torch.cat([levels.new_tensor([top]), levels[levels < top - 1e-9]])
        place = torch.linspace(0, len(levels) - 1, steps + 1, dtype=torch.float64)[:-1]
        below = place.long()
        interpolated = torch.lerp(levels[below], levels[below + 1], place - below)
        return with_zero(schedule.when(-interpolated))
