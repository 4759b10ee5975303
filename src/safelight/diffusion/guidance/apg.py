"""Adaptive projected guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import (
    condition_and_negative,
    divide,
    inner_product,
    per_sample,
    require_number,
    require_scale,
)
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class APG(Guidance):
    """Adaptive projected guidance, which does not oversaturate, in clean space (arXiv 2410.02416).

    The difference of the two estimates is averaged over the run with ``momentum`` (negative: away
    from the earlier differences) and shortened to the length ``threshold`` (0: not at all; the best
    value depends on the size of the latents). Of its component along the conditional estimate,
    ``eta`` is kept. With eta 1, no momentum and no threshold this is classifier-free guidance. With
    a sampler of two evaluations a step both count. Raises BadInput unless all are numbers, the
    threshold is 0 or more, and the momentum lies between -1 and 1.
    """

    kind: ClassVar[str] = "apg"

    scale: float = 7.0
    eta: float = 0.0
    threshold: float = 15.0
    momentum: float = -0.5

    def __post_init__(self) -> None:
        require_scale(self.scale)
        require_number("eta", self.eta, "0 is usual, 1 keeps all")
        require_number("threshold", self.threshold, "15 is usual, 0 is none")
        require(
            self.threshold >= 0,
            "threshold must be 0 or more",
            self.threshold,
            "15 is usual, 0 is none",
        )
        require(
            -1 < self.momentum < 1,
            "momentum must be between -1 and 1",
            self.momentum,
            "-0.5 is usual, 0 is none",
        )

    def begin(self, networks: Networks) -> Guidance:
        return self if self.momentum == 0 else _WithMomentum(self)

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return condition_and_negative(condition, negative, self.scale)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return self.guided(answers, _difference(answers)) if len(answers) == 2 else answers[0]

    def guided(self, answers: Sequence[Estimate], difference: Latents) -> Estimate:
        """The conditional estimate, moved ``scale`` - 1 times by what is kept of ``difference``."""
        clean = answers[0].clean
        if self.threshold > 0:
            length = per_sample(torch.linalg.vector_norm, difference)
            difference = difference * divide(
                torch.full_like(length, self.threshold), length
            ).clamp_max(1)
        along = (
            divide(
                per_sample(inner_product, difference, clean),
                per_sample(inner_product, clean, clean),
            )
            * clean
        )
        kept = difference - (1 - self.eta) * along
        return Estimate(clean + (self.scale - 1) * kept, variance=answers[0].variance)


@dataclass(eq=False)
class _WithMomentum(Guidance):
    """One run of APG, with the sum of the differences so far."""

    rule: APG
    sum: Latents | None = None

    def begin(self, networks: Networks) -> Guidance:
        return self.rule.begin(networks)

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return self.rule.calls(condition, negative, level)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        if len(answers) < 2:
            return answers[0]
        difference = _difference(answers)
        if self.sum is None:
            self.sum = difference
        else:
            self.sum = difference + self.rule.momentum * self.sum
        return self.rule.guided(answers, self.sum)


def _difference(answers: Sequence[Estimate]) -> Latents:
    return answers[0].clean - answers[1].clean
