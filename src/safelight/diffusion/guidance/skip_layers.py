"""Skip-layer guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from safelight.diffusion.guidance._rules import beyond, require_weakened, weakened
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
class SkipLayers:
    """Away from what the network answers without some of its blocks, on top of another guidance.

    Skip-layer guidance as Stable Diffusion 3.5 takes it: guided + ``strength`` · (conditional - conditional without
    ``blocks``), from ``high`` down to ``low`` in sigma / (alpha + sigma). One more answer there. Raises BadInput for a
    network that cannot leave these blocks out, and unless 0 <= low < high <= 1.
    """

    of: Guidance = field(default_factory=ClassifierFree)
    blocks: tuple[int, ...] = (1,)
    strength: float = 2.8
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require_weakened(self.blocks, self.strength, self.low, self.high)

    def begin(self, networks: Networks) -> SkipLayers:
        networks(NetworkVariant(skip_blocks=self.blocks))
        return replace(self, of=self.of.begin(networks))

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        also = ModelCall(condition, NetworkVariant(skip_blocks=self.blocks))
        return weakened(self.of.calls(condition, negative, level), also, level, self.low, self.high)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return beyond(self.of, answers, self.strength, noisy, level, self.low, self.high)
