"""CFG++: guidance that renoises without guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import past
from safelight.diffusion.prediction import noise_of
from safelight.types.diffusion import Estimate, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class CFGPlusPlus:
    """CFG++ (arXiv 2406.08070): guided clean latents, renoised with the noise of the negative.

    It interpolates, so that the result stays near what the network knows: ``scale`` 0 is the negative, 1 the
    condition. It goes with samplers that put found noise back (Euler, Heun); those that never read it (DPM-Solver++)
    would see a weak guidance only, and are refused. Raises BadInput for a scale outside 0 to 1.
    """

    kind: ClassVar[str] = "cfg-plus-plus"
    renoises: ClassVar[bool] = True

    scale: float = 0.6

    def __post_init__(self) -> None:
        require(0 <= self.scale <= 1, "scale must be from 0 to 1", self.scale, "0.6 is usual")

    def begin(self, networks: Networks) -> CFGPlusPlus:
        return self

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return ModelCall(condition), ModelCall(negative(None))

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        toward, away = answers
        return Estimate(
            past(toward, away, self.scale).clean, noise_of(away, noisy, level), toward.variance
        )
