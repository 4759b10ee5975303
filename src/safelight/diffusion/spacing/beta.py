"""Times by the quantiles of a Beta distribution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.quantile import beta_quantile
from safelight.diffusion.spacing._rules import ramp
from safelight.types.diffusion import Schedule, Spacing


@dataclass(frozen=True)
class Beta(Spacing):
    """Quantiles of a Beta distribution: most steps are near both ends (arXiv 2407.12173).

    scipy's ``beta.ppf`` of even probabilities, times ``begin``. Raises BadInput unless both
    parameters are positive.
    """

    alpha: float = 0.6
    beta: float = 0.6

    def __post_init__(self) -> None:
        both = (self.alpha, self.beta)
        require(
            all(0 < value < 100 for value in both),
            "alpha and beta must be within 0 and 100",
            both,
            "0.6 is usual",
        )

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return begin * beta_quantile(ramp(steps, begin), self.alpha, self.beta)
