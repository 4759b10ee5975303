"""Which times to train on, as quantile functions: uniform draws u in (0, 1) → t in (0, 1).

With ``strata`` > 1 the samples take turns in that many equal parts of the distribution, by their position in the
data, which evens out the times that an update sees whatever its batch is cut into.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.diffusion.checks import require


@dataclass(frozen=True)
class Uniform:
    """All times alike. Raises BadInput unless strata >= 1."""

    strata: int = 1

    def __post_init__(self) -> None:
        _require_strata(self.strata)

    def __call__(self, u: Tensor, position: Tensor) -> Tensor:
        return _stratified(u, position, self.strata)


@dataclass(frozen=True)
class LogitNormal:
    """logit(t) is normal, so that the middle is trained most (arXiv 2403.03206, eq. 19).

    A positive ``mean`` leans towards noise. Raises BadInput unless std > 0 and strata >= 1.
    """

    mean: float = 0.0
    std: float = 1.0
    strata: int = 1

    def __post_init__(self) -> None:
        _require_strata(self.strata)
        require(math.isfinite(self.mean), "mean must be a number", self.mean, "0 is usual")
        require(0 < self.std < math.inf, "std must be above 0", self.std, "1 is usual")

    def __call__(self, u: Tensor, position: Tensor) -> Tensor:
        return torch.sigmoid(
            self.mean + self.std * torch.special.ndtri(_stratified(u, position, self.strata))
        )


def _stratified(u: Tensor, position: Tensor, strata: int) -> Tensor:
    return (position % strata + u) / strata


def _require_strata(strata: int) -> None:
    require(strata >= 1, "strata must be at least 1", strata, "1 draws freely")
