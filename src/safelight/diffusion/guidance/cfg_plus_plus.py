"""CFG++: guided clean latents, renoised with unguided noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import extrapolate
from safelight.diffusion.prediction import noise_of
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class CFGPlusPlus(Guidance):
    """CFG++ (arXiv 2406.08070): guided clean latents, renoised with the noise of the negative.

    It interpolates, so that the result stays near what the network has learned: ``scale`` 0 is the
    negative, 1 the condition. It needs a sampler that adds the predicted noise back (Euler, Heun);
    samplers that never use that noise (DPM-Solver++) would see a weak guidance only, and are
    refused. Raises BadInput for a scale outside 0 to 1.
    """

    kind: ClassVar[str] = "cfg-plus-plus"
    sets_noise: ClassVar[bool] = True

    scale: float = 0.6

    def __post_init__(self) -> None:
        require(0 <= self.scale <= 1, "scale must be from 0 to 1", self.scale, "0.6 is usual")

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return ModelCall(condition), ModelCall(negative(None))

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        positive, negative = answers
        clean = extrapolate(negative, positive, self.scale).clean
        return Estimate(clean, noise_of(negative, noisy, level), positive.variance)
