"""Guidance in an interval of noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from safelight.diffusion.guidance._rules import AroundGuidance, in_interval, require_interval
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Interval(AroundGuidance):
    """Another guidance at some noise levels only, and no guidance at the others (arXiv 2404.07724).

    It applies where ``low`` <= sigma / (alpha + sigma) <= ``high``; on the linear schedule this
    ratio is t. Raises BadInput unless 0 <= low < high <= 1.
    """

    of: Guidance = field(default_factory=ClassifierFree)
    low: float = 0.0
    high: float = 0.8

    def __post_init__(self) -> None:
        require_interval(self.low, self.high)

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        if in_interval(level, self.low, self.high):
            return self.of.calls(condition, negative, level)
        return (ModelCall(condition),)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        if in_interval(level, self.low, self.high):
            return self.of.combine(answers, noisy, level)
        return answers[0]
