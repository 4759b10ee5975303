"""Guidance of some channels only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import AroundGuidance
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.prediction import noise_of
from safelight.types.diffusion import Estimate, Guidance, NoiseLevel
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Channels(AroundGuidance):
    """Another guidance in the ``first`` channels of the latents only; the others are not guided.

    DiT's published numbers were made with three of four channels (arXiv 2212.09748), which its
    author calls unintended: 2.27 "at 1.5" is about what 1.375 on all four gives. Raises BadInput
    unless ``first`` is at least 1.
    """

    of: Guidance = field(default_factory=ClassifierFree)
    first: int = 3

    def __post_init__(self) -> None:
        require(self.first >= 1, "first must be at least 1 channel", self.first, "3 is DiT's")

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        guided = self.of.combine(answers, noisy, level)
        if len(answers) < 2:
            return guided
        noise = None
        if guided.noise is not None:
            noise = self._joined(guided.noise, noise_of(answers[0], noisy, level))
        return Estimate(self._joined(guided.clean, answers[0].clean), noise, guided.variance)

    def _joined(self, guided: Latents, unguided: Latents) -> Latents:
        return torch.cat([guided[:, : self.first], unguided[:, self.first :]], dim=1)
