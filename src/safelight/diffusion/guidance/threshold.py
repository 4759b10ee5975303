"""Dynamic thresholding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.guidance._rules import AroundGuidance
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.types.diffusion import Estimate, Guidance, NoiseLevel
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Threshold(AroundGuidance):
    """Another guidance, with dynamic thresholding of the clean latents.

    Imagen, arXiv 2205.11487, section 2.3. s is the ``quantile`` of the magnitudes of a sample.
    Where s is above ``bound``, the clean latents are clamped to s and then scaled by bound / s.
    Imagen's pixels have the bound 1; latents of unit variance reach 3. Raises BadInput unless the
    quantile is within 0 to 1 and the bound above 0.
    """

    of: Guidance = field(default_factory=ClassifierFree)
    quantile: float = 0.995
    bound: float = 3.0

    def __post_init__(self) -> None:
        require(
            0 < self.quantile <= 1,
            "quantile must be above 0 and at most 1",
            self.quantile,
            "0.995 is usual",
        )
        require(self.bound > 0, "bound must be above 0", self.bound, "1 suits pixels, 3 latents")

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        guided = self.of.combine(answers, noisy, level)
        limit = self._quantile(guided.clean).clamp_min(self.bound)
        return replace(guided, clean=guided.clean.clamp(-limit, limit) * (self.bound / limit))

    def _quantile(self, clean: Latents) -> Tensor:
        """The quantile of the magnitudes of each sample, (b, 1, …).

        The same as torch.quantile, which is slower since it sorts all of them.
        """
        magnitudes = clean.abs().flatten(1)
        place = self.quantile * (magnitudes.shape[1] - 1)
        largest = magnitudes.topk(magnitudes.shape[1] - math.floor(place), dim=1).values
        between = torch.lerp(
            largest[:, -1], largest[:, -2:].select(1, 0), place - math.floor(place)
        )
        return between.reshape(-1, *[1] * (clean.ndim - 1))
