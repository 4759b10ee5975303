"""Guidance with the standard deviation of the conditional answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import AroundGuidance, divide, per_sample
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.prediction import Space, from_space, to_space
from safelight.types.diffusion import Estimate, Guidance, NoiseLevel
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Rescale(AroundGuidance):
    """Guidance rescale: another guidance with the conditional answer's standard deviation.

    arXiv 2305.08891, section 3.4. ``phi`` is how far the deviation of each sample is brought back:
    0 not at all, 1 wholly, which looks plain; the paper uses 0.7. It is the deviation of the
    network's answer, v in the paper; ``space`` names another prediction. Raises BadInput for a
    ``phi`` outside 0 to 1.
    """

    of: Guidance = field(default_factory=ClassifierFree)
    phi: float = 0.7
    space: Space = "v"

    def __post_init__(self) -> None:
        require(0 <= self.phi <= 1, "phi must be from 0 to 1", self.phi, "0.7 is usual")

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        guided = self.of.combine(answers, noisy, level)
        if len(answers) < 2 or self.phi == 0:
            return guided
        answer = to_space(self.space, replace(guided, noise=None), noisy, level)
        unguided = to_space(self.space, answers[0], noisy, level)
        ratio = divide(per_sample(Tensor.std, unguided), per_sample(Tensor.std, answer))
        rescaled = (self.phi * ratio + (1 - self.phi)) * answer
        clean = from_space(self.space, rescaled, noisy, level, fallback=guided.clean)
        return replace(guided, clean=clean)
