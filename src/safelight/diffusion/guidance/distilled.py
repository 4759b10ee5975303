"""Guidance that the network itself has learned by distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safelight.diffusion.guidance._rules import require_number
from safelight.errors import BadInput
from safelight.types.diffusion import (
    Estimate,
    Guidance,
    ModelCall,
    Negative,
    Networks,
    NetworkVariant,
    NoiseLevel,
)
from safelight.types.networks import Condition, Denoiser
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Distilled(Guidance):
    """A guidance-distilled network takes the scale as an input; one call (arXiv 2210.03142).

    The scale is given to it as the scalar ``name``. Raises BadInput for a network that does not
    take that scalar, and unless the scale is a number.
    """

    scale: float = 3.5
    name: str = "guidance"

    def __post_init__(self) -> None:
        require_number("scale", self.scale, "3.5 is usual")

    def begin(self, networks: Networks) -> Distilled:
        network = networks(NetworkVariant())
        names: list[str] = sorted(network.scalar_names) if isinstance(network, Denoiser) else []
        if self.name not in names:
            raise BadInput(
                f"distilled guidance needs a network that takes the scalar {self.name!r}, this one "
                f"takes {', '.join(names) or 'no scalars'}: choose another guidance."
            )
        return self

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return (ModelCall(condition, scalars={self.name: self.scale}),)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return answers[0]
