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
class Part:
    """A condition with its say: ``weight``, and ``where`` it holds (broadcastable to latents; None:
    everywhere).

    Raises BadInput unless the weight is a number.
    """

    condition: Condition
    weight: float = 1.0
    where: Tensor | None = None

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.weight),
            "a weight must be a number",
            self.weight,
            "1 is usual, below 0 is away from",
        )

    @property
    def say(self) -> Tensor:
        """Its weight at each place."""
        return self.weight * (torch.ones(()) if self.where is None else self.where)


def require_say(parts: Sequence[Part]) -> None:
    """Raises BadInput unless the weights of ``parts`` sum to more than 0 at every place."""
    least = float(_total(parts).min()) if parts else 1.0
    require(
        least > 0,
        "weights must sum to more than 0 at every place",
        least,
        "add a part that holds everywhere",
    )


def spread(question: ModelCall, parts: Sequence[Part]) -> list[ModelCall]:
    """The same question under the condition of each part."""
    return [replace(question, condition=part.condition) for part in parts]


def blend(answers: Sequence[Estimate], parts: Sequence[Part]) -> Estimate:
    """The mean of the parts' answers, weighted at every place.

    Where guidance of scale s goes toward it, each part has the scale s · weight / (sum of weights):
    composed diffusion (arXiv 2206.01714); with regions, MultiDiffusion (arXiv 2302.08113).
    """
    total = _total(parts)

    def mean(values: Sequence[Tensor | None]) -> Tensor | None:
        present = [value for value in values if value is not None]
        if len(present) < len(parts):
            return None
        terms = [
            part.say.to(value) / total.to(value) * value
            for part, value in zip(parts, present, strict=True)
        ]
        return sum(terms[1:], terms[0])

    clean = mean([answer.clean for answer in answers])
    assert clean is not None
    return Estimate(clean, mean([a.noise for a in answers]), mean([a.variance for a in answers]))


def _total(parts: Sequence[Part]) -> Tensor:
    return sum((part.say for part in parts[1:]), parts[0].say)
