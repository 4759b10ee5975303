"""Several conditions at once: composed by weights, or each in its own region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.diffusion import Estimate, ModelCall
from safelight.types.networks import Condition


@dataclass(frozen=True, eq=False)
class WeightedCondition:
    """A condition with its ``weight`` and the ``region`` where it applies.

    The region broadcasts to latents; None is everywhere. Raises BadInput unless the weight is a
    number.
    """

    condition: Condition
    weight: float = 1.0
    region: Tensor | None = None

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.weight),
            "a weight must be a number",
            self.weight,
            "1 is usual, below 0 is away from",
        )

    @property
    def weights(self) -> Tensor:
        """Its weight at each place."""
        return self.weight * (torch.ones(()) if self.region is None else self.region)


def require_positive_weights(conditions: Sequence[WeightedCondition]) -> None:
    """Raises BadInput unless the weights sum to more than 0 at every place."""
    lowest = float(_total(conditions).min()) if conditions else 1.0
    require(
        lowest > 0,
        "weights must sum to more than 0 at every place",
        lowest,
        "add a condition that holds everywhere",
    )


def calls_under(call: ModelCall, conditions: Sequence[WeightedCondition]) -> list[ModelCall]:
    """The same call under each of the conditions."""
    return [replace(call, condition=weighted.condition) for weighted in conditions]


def blend(answers: Sequence[Estimate], conditions: Sequence[WeightedCondition]) -> Estimate:
    """The mean of the answers under ``conditions``, weighted at every place.

    If guidance of scale s goes towards it, each condition has the scale s · weight / (sum of
    weights): composed diffusion (arXiv 2206.01714); with regions, MultiDiffusion (arXiv
    2302.08113).
    """
    total = _total(conditions)

    def mean(values: Sequence[Tensor | None]) -> Tensor | None:
        present = [value for value in values if value is not None]
        if len(present) < len(conditions):
            return None
        terms = [
            weighted.weights.to(value) / total.to(value) * value
            for weighted, value in zip(conditions, present, strict=True)
        ]
        return sum(terms[1:], terms[0])

    clean = mean([answer.clean for answer in answers])
    assert clean is not None
    return Estimate(clean, mean([a.noise for a in answers]), mean([a.variance for a in answers]))


def _total(conditions: Sequence[WeightedCondition]) -> Tensor:
    return sum((weighted.weights for weighted in conditions[1:]), conditions[0].weights)
