"""Skip-layer guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from safelight.diffusion.guidance._rules import (
    AroundGuidance,
    combine_with_perturbed,
    require_perturbation,
    with_perturbed_call,
)
from safelight.diffusion.guidance.classifier_free import ClassifierFree
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


@dataclass(frozen=True)
class SkipLayers(AroundGuidance):
    """Away from the estimate without some blocks of the network, on top of another guidance.

    Skip-layer guidance as in Stable Diffusion 3.5: guided + ``strength`` · (conditional -
    conditional without ``blocks``), where sigma / (alpha + sigma) lies between ``low`` and
    ``high``. One more call there. Raises BadInput for a network without these blocks, and unless 0
    <= low < high <= 1.
    """

    of: Guidance = field(default_factory=ClassifierFree)
    blocks: tuple[int, ...] = (1,)
    strength: float = 2.8
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require_perturbation(self.blocks, self.strength, self.low, self.high)

    def begin(self, networks: Networks) -> SkipLayers:
        networks(NetworkVariant(skip_blocks=self.blocks))
        return replace(self, of=self.of.begin(networks))

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        perturbed = ModelCall(condition, NetworkVariant(skip_blocks=self.blocks))
        calls = self.of.calls(condition, negative, level)
        return with_perturbed_call(calls, perturbed, level, self.low, self.high)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return combine_with_perturbed(
            self.of, answers, self.strength, noisy, level, self.low, self.high
        )
