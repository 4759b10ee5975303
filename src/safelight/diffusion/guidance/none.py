"""No guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Unguided(Guidance):
    """The estimate of the network itself: one call."""

    kind: ClassVar[str] = "none"

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return (ModelCall(condition),)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return answers[0]
