"""Samplers of first order with one pass a step: Euler, and DDIM run backwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.prediction import noise_of
from safelight.diffusion.trajectory import (
    add_noise,
    ancestral,
    first_order_step,
    require_eta,
    transitions,
)
from safelight.types.diffusion import (
    Denoise,
    NoiseSource,
    Run,
    Sampler,
    SamplerInfo,
    Schedule,
    Step,
)
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler for flows, DDIM for others (arXiv 2010.02502): the same estimate at the next level.

    ``eta`` replaces predicted noise by fresh noise: 0 is deterministic, 1 is the ancestral sampling
    of DDPM (arXiv 2006.11239). The fresh noise is multiplied by ``s_noise``. Raises BadInput unless
    eta lies in 0 to 1 and s_noise is positive.
    """

    info: ClassVar = SamplerInfo(
        "Euler", "1", "1", "arXiv 2206.00364, 2010.02502", "with eta", renoises=True
    )

    eta: float = 0.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        require_eta(self.eta)
        require(0 < self.s_noise < math.inf, "s_noise must be above 0", self.s_noise, "1 is exact")

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        for transition in transitions(times, schedule):
            estimate = denoise(noisy, transition.level)
            down, fresh = ancestral(transition.level, transition.after, self.eta)
            noisy = first_order_step(estimate, noisy, transition.level, down)
            noisy = add_noise(noisy, self.s_noise * fresh, noise, transition.interval)
            yield transition.step(noisy, estimate)


@dataclass(frozen=True)
class DDIMInversion(Sampler):
    """DDIM from clean to noise: the noise from which DDIM makes given latents.

    arXiv 2010.02502, section 4.3. ``noisy`` lies at the last of the times, and the steps go up to
    the first. Clean latents hold no noise to predict: for them the network is called with the level
    that the step goes to.
    """

    info: ClassVar = SamplerInfo("DDIM inversion", "1", "1", "arXiv 2010.02502", renoises=True)
    kind: ClassVar = "ddim-inversion"

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        for index, transition in enumerate(reversed(list(transitions(times, schedule)))):
            level, after = transition.after, transition.level
            called_at = level if level.sigma > 0 else after
            estimate = denoise(noisy, called_at)
            ratio = after.alpha / level.alpha
            predicted = noise_of(estimate, noisy, called_at)
            noisy = ratio * noisy + (after.sigma - ratio * level.sigma) * predicted
            left = torch.as_tensor(times)[: transition.index + 1]
            yield Step(index, transition.total, after, noisy, estimate, left)
