"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safelight.diffusion.guidance._rules import both, past, require_scale
from safelight.types.diffusion import Estimate, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class ClassifierFree:
    """Away from the negative, ``scale`` times as far as the condition goes (arXiv 2207.12598, eq. 6 with scale 1 + w).

    Two answers, and one at scale 1, which is no guidance. Raises BadInput if the scale is not a number.
    """

    scale: float = 4.0

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def begin(self, networks: Networks) -> ClassifierFree:
        return self

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return both(condition, negative, self.scale)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return answers[0] if self.scale == 1 else past(answers[0], answers[1], self.scale)
