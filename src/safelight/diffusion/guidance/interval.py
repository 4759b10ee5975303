"""Guidance in an interval of noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from safelight.diffusion.guidance._rules import require_ends, within
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Interval:
    """Another guidance at some noise levels only, and one plain pass at the others (arXiv 2404.07724).

    It holds where ``low`` <= sigma / (alpha + sigma) <= ``high``, which is t on the linear schedule. Raises BadInput
    unless 0 <= low < high <= 1.
    """

    of: Guidance = field(default_factory=ClassifierFree)
    low: float = 0.0
    high: float = 0.8

    def __post_init__(self) -> None:
        require_ends(self.low, self.high)

    def begin(self, networks: Networks) -> Interval:
        return replace(self, of=self.of.begin(networks))

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        holds = within(level, self.low, self.high)
        return self.of.calls(condition, negative, level) if holds else (ModelCall(condition),)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return (
            self.of.combine(answers, noisy, level)
            if within(level, self.low, self.high)
            else answers[0]
        )
