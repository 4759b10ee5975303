"""CFG-Zero*: guidance for flow models that scales the negative estimate first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import (
    condition_and_negative,
    divide,
    inner_product,
    per_sample,
    require_scale,
)
from safelight.diffusion.prediction import SPACES, to_space
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class CFGZero(Guidance):
    """CFG-Zero* (arXiv 2503.18886): classifier-free guidance with a scaled negative, in velocity.

    The negative velocity is scaled to come nearest to the conditional one, by <conditional,
    negative> / |negative|² of each sample. For the first ``zero`` evaluations, where a network that
    is not fully trained errs most, the velocity is 0 and the network is not called (the authors:
    one step, or 4 % of them). Raises BadInput unless the scale is a number and ``zero`` is 0 or
    more.
    """

    kind: ClassVar[str] = "cfg-zero"

    scale: float = 4.0
    zero: int = 1

    def __post_init__(self) -> None:
        require_scale(self.scale)
        require(self.zero >= 0, "zero must be 0 or more evaluations", self.zero, "1 is usual")

    def begin(self, networks: Networks) -> Guidance:
        return _ZeroFirst(self) if self.zero else self

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return condition_and_negative(condition, negative, self.scale)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        if len(answers) < 2:
            return answers[0]
        positive, negative = (to_space("flow", answer, noisy, level) for answer in answers)
        shared = per_sample(inner_product, positive, negative)
        negative = divide(shared, per_sample(inner_product, negative, negative)) * negative
        velocity = negative + self.scale * (positive - negative)
        return Estimate(
            SPACES["flow"].to_estimate(velocity, noisy, level).clean, variance=answers[0].variance
        )


@dataclass(eq=False)
class _ZeroFirst(Guidance):
    """One run of CFG-Zero*, with the number of its evaluations so far."""

    rule: CFGZero
    count: int = 0

    def begin(self, networks: Networks) -> Guidance:
        return self.rule.begin(networks)

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return () if self.count < self.rule.zero else self.rule.calls(condition, negative, level)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        self.count += 1
        if answers:
            return self.rule.combine(answers, noisy, level)
        return SPACES["flow"].to_estimate(torch.zeros_like(noisy), noisy, level)
