"""Guidance by a text and a picture, for editing: two scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safelight.diffusion.guidance._rules import require_number
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class TwoScale(Guidance):
    """Separate scales for text and picture, as in InstructPix2Pix (arXiv 2211.09800, eq. 3).

    ``picture`` times from the negative to the picture alone, and from there ``text`` times to both.
    Three calls; "the picture alone" is the condition with its text negated. Raises BadInput unless
    both scales are numbers.
    """

    kind: ClassVar[str] = "two-scale"

    text: float = 7.5
    picture: float = 1.5

    def __post_init__(self) -> None:
        require_number("text", self.text, "7.5 is usual")
        require_number("picture", self.picture, "1.5 is usual")

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return ModelCall(condition), ModelCall(negative({"text"})), ModelCall(negative(None))

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        both, picture, negative = (answer.clean for answer in answers)
        clean = negative + self.picture * (picture - negative) + self.text * (both - picture)
        return Estimate(clean, variance=answers[0].variance)
