"""Guidance that keeps the spread of the answer that it guides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import each, over
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.prediction import Space, from_space, to_space
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Rescale:
    """Another guidance, its spread brought back to that of the conditional answer (arXiv 2305.08891, section 3.4).

    ``phi`` is how far: 0 leaves it, 1 gives each sample's deviation back wholly, which looks plain; the paper takes
    0.7. The spread is that of the network's answer, v in the paper; ``space`` names another. Raises BadInput for a
    ``phi`` outside 0 to 1.
    """

    of: Guidance = field(default_factory=ClassifierFree)
    phi: float = 0.7
    space: Space = "v"

    def __post_init__(self) -> None:
        require(0 <= self.phi <= 1, "phi must be from 0 to 1", self.phi, "0.7 is usual")

    def begin(self, networks: Networks) -> Rescale:
        return replace(self, of=self.of.begin(networks))

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return self.of.calls(condition, negative, level)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        guided = self.of.combine(answers, noisy, level)
        if len(answers) < 2 or self.phi == 0:
            return guided
        wide = to_space(self.space, replace(guided, noise=None), noisy, level)
        narrow = to_space(self.space, answers[0], noisy, level)
        factor = self.phi * over(each(Tensor.std, narrow), each(Tensor.std, wide)) + (1 - self.phi)
        return replace(
            guided, clean=from_space(self.space, factor * wide, noisy, level, blind=guided.clean)
        )
