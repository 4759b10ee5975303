"""Guidance by a weaker model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safelight.diffusion.guidance._rules import extrapolate, require_scale
from safelight.types.diffusion import (
    Estimate,
    Guidance,
    ModelCall,
    Negative,
    Networks,
    NetworkVariant,
    NoiseLevel,
)
from safelight.types.networks import Condition
from safelight.types.tensors import Latents

WEAK = NetworkVariant("weak")


@dataclass(frozen=True)
class Autoguidance(Guidance):
    """Away from a weaker model, less trained or smaller, under the same condition.

    arXiv 2406.02507. The weaker model is the model's companion ``weak``. Two calls, and one at
    scale 1. Raises BadInput if the scale is not a number or there is no such companion.
    """

    scale: float = 2.0

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def begin(self, networks: Networks) -> Autoguidance:
        networks(WEAK)
        return self

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        main = ModelCall(condition)
        return (main,) if self.scale == 1 else (main, ModelCall(condition, WEAK))

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return answers[0] if len(answers) < 2 else extrapolate(answers[1], answers[0], self.scale)
