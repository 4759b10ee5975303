"""Distributions of training times, as quantile functions: uniform draws u in (0, 1) → t in (0, 1).

With ``strata`` > 1 the distribution is cut into that many equally likely parts, which samples draw
from in turn, by their position in the data. This evens out the times of an update, however its
batch is divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.diffusion import Density


@dataclass(frozen=True)
class Uniform(Density):
    """All times equally likely. Raises BadInput unless strata >= 1."""

    strata: int = 1

    def __post_init__(self) -> None:
        _require_strata(self.strata)

    def __call__(self, u: Tensor, position: Tensor) -> Tensor:
        return _stratified(u, position, self.strata)


@dataclass(frozen=True)
class LogitNormal(Density):
    """logit(t) is normal, so that middle times are the likeliest (arXiv 2403.03206, eq. 19).

    A positive ``mean`` shifts towards noise. Raises BadInput unless std > 0 and strata >= 1.
    """

    mean: float = 0.0
    std: float = 1.0
    strata: int = 1

    def __post_init__(self) -> None:
        _require_strata(self.strata)
        require(math.isfinite(self.mean), "mean must be a number", self.mean, "0 is usual")
        require(0 < self.std < math.inf, "std must be above 0", self.std, "1 is usual")

    def __call__(self, u: Tensor, position: Tensor) -> Tensor:
        normal = torch.special.ndtri(_stratified(u, position, self.strata))
        return torch.sigmoid(self.mean + self.std * normal)


def _stratified(u: Tensor, position: Tensor, strata: int) -> Tensor:
    return (position % strata + u) / strata


def _require_strata(strata: int) -> None:
    require(strata >= 1, "strata must be at least 1", strata, "1 draws from the whole")
