"""Adaptive projected guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import (
    both,
    each,
    over,
    product,
    require_number,
    require_scale,
)
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class APG:
    """Guidance without what saturates: adaptive projected guidance, in clean space (arXiv 2410.02416).

    The difference of the two answers is summed up over the run with ``momentum`` (negative: away from where it went
    before), cut to the length ``threshold`` (0: not cut; in latents of another size another one fits), and of its part
    along the conditional answer ``eta`` is kept. With eta 1, no momentum and no threshold it is classifier-free
    guidance. A sampler with two evaluations a step is remembered at both. Raises BadInput unless all are numbers, the
    threshold is not negative, and the momentum is within -1 and 1.
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
        return self if self.momentum == 0 else _Moving(self)

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return both(condition, negative, self.scale)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return self.toward(answers, _difference(answers)) if len(answers) == 2 else answers[0]

    def toward(self, answers: Sequence[Estimate], difference: Latents) -> Estimate:
        """The conditional answer, moved ``scale`` - 1 times along what is kept of ``difference``."""
        clean = answers[0].clean
        if self.threshold > 0:
            length = each(torch.linalg.vector_norm, difference)
            difference = difference * over(
                torch.full_like(length, self.threshold), length
            ).clamp_max(1)
        along = over(each(product, difference, clean), each(product, clean, clean)) * clean
        kept = difference - (1 - self.eta) * along
        return Estimate(clean + (self.scale - 1) * kept, variance=answers[0].variance)


@dataclass(eq=False)
class _Moving:
    """One run of APG, which remembers the differences so far."""

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
        now = _difference(answers)
        self.sum = now if self.sum is None else now + self.rule.momentum * self.sum
        return self.rule.toward(answers, self.sum)


def _difference(answers: Sequence[Estimate]) -> Latents:
    return answers[0].clean - answers[1].clean
