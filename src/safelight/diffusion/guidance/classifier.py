"""Guidance by a classifier of noisy latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from safelight.diffusion.guidance._rules import AroundGuidance, require_number
from safelight.diffusion.guidance.none import Unguided
from safelight.types.diffusion import Estimate, Guidance, NoiseLevel
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Classifier(AroundGuidance):
    """Classifier guidance (arXiv 2105.05233, algorithm 2), on top of another guidance.

    ``log_probability`` returns log p(class | noisy) of each sample, (b,), from the noisy latents
    and their level. ``scale`` times its gradient is added to the score, so scale · sigma² / alpha
    times it to the clean latents. Where alpha is 0 nothing is added, since a classifier can tell
    nothing there. It can be used from Python only: a function cannot be written as JSON. Raises
    BadInput unless the scale is a number.
    """

    log_probability: Callable[[Tensor, NoiseLevel], Tensor]
    scale: float = 1.0
    of: Guidance = field(default_factory=Unguided)

    def __post_init__(self) -> None:
        require_number("scale", self.scale, "1 is Bayes' rule")

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        guided = self.of.combine(answers, noisy, level)
        gain = torch.where(level.alpha > 0, self.scale * level.sigma**2 / level.alpha, 0)
        return replace(
            guided, clean=guided.clean + gain.to(guided.clean) * self._gradient(noisy, level)
        )

    def _gradient(self, noisy: Latents, level: NoiseLevel) -> Latents:
        # Sampling runs in inference mode, whose tensors cannot have gradients: these are copies.
        with torch.inference_mode(False), torch.enable_grad():
            variable = noisy.clone().requires_grad_()
            here = NoiseLevel(**{name: value.clone() for name, value in vars(level).items()})
            (gradient,) = torch.autograd.grad(self.log_probability(variable, here).sum(), variable)
        return gradient
