"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safelight.diffusion.guidance._rules import condition_and_negative, extrapolate, require_scale
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """From the negative estimate, ``scale`` times as far as the conditional one.

    arXiv 2207.12598, eq. 6 with scale = 1 + w. Two calls, and one at scale 1, which is no guidance.
    Raises BadInput if the scale is not a number.
    """

    scale: float = 4.0

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return condition_and_negative(condition, negative, self.scale)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        if self.scale == 1:
            return answers[0]
        positive, negative = answers
        return extrapolate(negative, positive, self.scale)
