"""Guidance that the network itself has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safelight.diffusion.guidance._rules import require_number
from safelight.errors import BadInput
from safelight.types.diffusion import (
    Estimate,
    ModelCall,
    Negative,
    Networks,
    NetworkVariant,
    NoiseLevel,
)
from safelight.types.networks import Condition, Denoiser
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Distilled:
    """A guidance-distilled network hears the scale and answers guided, in one pass (arXiv 2210.03142).

    The scale goes in as the scalar ``name``. Raises BadInput for a network that does not declare to hear it, and unless
    the scale is a number.
    """

    scale: float = 3.5
    name: str = "guidance"

    def __post_init__(self) -> None:
        require_number("scale", self.scale, "3.5 is usual")

    def begin(self, networks: Networks) -> Distilled:
        network = networks(NetworkVariant())
        heard: list[str] = sorted(network.scalar_names) if isinstance(network, Denoiser) else []
        if self.name not in heard:
            raise BadInput(
                f"guidance that was distilled wants a network that hears {self.name!r}, this one hears "
                f"{', '.join(heard) or 'no scalars'}: choose another guidance."
            )
        return self

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return (ModelCall(condition, scalars={self.name: self.scale}),)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return answers[0]
