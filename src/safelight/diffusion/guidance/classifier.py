"""Guidance by a classifier of noisy latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from safelight.diffusion.guidance._rules import require_number
from safelight.diffusion.guidance.none import Unguided
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Classifier:
    """Toward what a classifier makes likelier (arXiv 2105.05233, algorithm 2), on top of another guidance.

    ``log_probability`` gives log p(wanted | noisy) of each sample, (b,), from the noisy latents and their level; the
    score grows by ``scale`` times its gradient, so the clean latents by scale · sigma² / alpha times it. Where alpha
    is 0 the latents tell a classifier nothing, and nothing is added. In Python only: a function has no name in JSON.
    Raises BadInput unless the scale is a number.
    """

    log_probability: Callable[[Tensor, NoiseLevel], Tensor]
    scale: float = 1.0
    of: Guidance = field(default_factory=Unguided)

    def __post_init__(self) -> None:
        require_number("scale", self.scale, "1 is Bayes' rule")

    def begin(self, networks: Networks) -> Classifier:
        return replace(self, of=self.of.begin(networks))

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return self.of.calls(condition, negative, level)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        guided = self.of.combine(answers, noisy, level)
        gain = torch.where(level.alpha > 0, self.scale * level.sigma**2 / level.alpha, 0)
        return replace(
            guided, clean=guided.clean + gain.to(guided.clean) * self._gradient(noisy, level)
        )

    def _gradient(self, noisy: Latents, level: NoiseLevel) -> Latents:
        # Pictures are made in inference mode, whose tensors no gradient may pass: these are plain copies.
        with torch.inference_mode(False), torch.enable_grad():
            variable = noisy.clone().requires_grad_()
            here = NoiseLevel(**{name: value.clone() for name, value in vars(level).items()})
            (gradient,) = torch.autograd.grad(self.log_probability(variable, here).sum(), variable)
        return gradient
