"""Few-step sampling of distilled models: the clean estimate is noised again to the next level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.trajectory import add_noise, first_order_step, levels, renoise, transitions
from safelight.types.diffusion import Denoise, NoiseSource, Run, Sampler, SamplerInfo, Schedule
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Consistency(Sampler):
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1)."""

    info: ClassVar = SamplerInfo("Consistency, multistep", "–", "1", "arXiv 2303.01469", "always")

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
            noisy = add_noise(
                transition.after.alpha * estimate.clean,
                transition.after.sigma,
                noise,
                transition.interval,
            )
            yield transition.step(noisy, estimate)


@dataclass(frozen=True)
class LCM(Sampler):
    """Latent consistency (arXiv 2310.04378, section 4).

    It is ``Consistency`` with the boundary condition of the network: near clean the estimate
    becomes the noisy latents themselves. c_skip = s² / (k² + s²) and c_out = k / sqrt(k² + s²),
    where k is ``scaling`` times the timestep of the network, and s = ``deviation``. Raises BadInput
    unless both are positive.
    """

    info: ClassVar = SamplerInfo("LCM", "–", "1", "arXiv 2310.04378", "always")

    scaling: float = 10.0
    deviation: float = 0.5

    def __post_init__(self) -> None:
        both = (self.scaling, self.deviation)
        require(
            all(0 < value < math.inf for value in both),
            "scaling and deviation must be above 0",
            both,
            "10 and 0.5",
        )

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
            k = self.scaling * transition.level.time
            total = k**2 + self.deviation**2
            clean = self.deviation**2 / total * noisy + k / total.sqrt() * estimate.clean
            noisy = add_noise(
                transition.after.alpha * clean, transition.after.sigma, noise, transition.interval
            )
            yield transition.step(noisy, estimate)


@dataclass(frozen=True)
class TCD(Sampler):
    """Trajectory consistency (arXiv 2402.19159, algorithm 4).

    A step of DDIM beyond the next level, and noise to come back up to it. ``eta`` is the paper's
    gamma: the step goes down to (1 - eta) · t. With 0 no noise is added, with 1 it goes to clean.
    Raises BadInput unless it lies in 0 to 1.
    """

    info: ClassVar = SamplerInfo("TCD", "1", "1", "arXiv 2402.19159", "with eta", renoises=True)

    eta: float = 0.3

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, "eta must be from 0 to 1", self.eta, "0.3 is usual")

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        for transition, lower in zip(
            transitions(times, schedule), levels((1 - self.eta) * times[1:], schedule), strict=True
        ):
            estimate = denoise(noisy, transition.level)
            noisy = first_order_step(estimate, noisy, transition.level, lower)
            if lower.sigma < transition.after.sigma:
                noisy = renoise(
                    noisy, lower, transition.after, noise(noisy.shape, transition.interval)
                )
            yield transition.step(noisy, estimate)
