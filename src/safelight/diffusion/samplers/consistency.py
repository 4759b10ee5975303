"""Few-step sampling of distilled models, which see the clean end of their path at once: noise is added back anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.trajectory import About, freshen, levels, renoised, straight, walk
from safelight.types.diffusion import Denoise, NoiseSource, Run, Schedule
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Consistency:
    """Consistency multistep (arXiv 2303.01469, algorithm 1): the estimate, noised anew to the next level."""

    about: ClassVar = About("Consistency, multistep", "–", "1", "arXiv 2303.01469", "always")

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        for leg in walk(times, schedule):
            estimate = denoise(noisy, leg.level)
            noisy = freshen(leg.after.alpha * estimate.clean, leg.after.sigma, noise, leg.interval)
            yield leg.step(noisy, estimate)


@dataclass(frozen=True)
class LCM:
    """Latent consistency (arXiv 2310.04378, section 4): as ``Consistency``, with the boundary condition of the network
    written out: near clean the estimate is the noisy latents themselves.

    c_skip = s² / (k² + s²) and c_out = k / sqrt(k² + s²) at k = ``scaling`` times the time that the network hears, with
    s = ``deviation``. Raises BadInput unless both are positive.
    """

    about: ClassVar = About("LCM", "–", "1", "arXiv 2310.04378", "always")

    scaling: float = 10.0
    deviation: float = 0.5

    def __post_init__(self) -> None:
        both = (self.scaling, self.deviation)
        require(
            all(0 < one < math.inf for one in both),
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
        for leg in walk(times, schedule):
            estimate = denoise(noisy, leg.level)
            heard = self.scaling * leg.level.time
            whole = heard**2 + self.deviation**2
            clean = self.deviation**2 / whole * noisy + heard / whole.sqrt() * estimate.clean
            noisy = freshen(leg.after.alpha * clean, leg.after.sigma, noise, leg.interval)
            yield leg.step(noisy, estimate)


@dataclass(frozen=True)
class TCD:
    """Trajectory consistency (arXiv 2402.19159, algorithm 4): DDIM beyond the next level, and noise back up to it.

    ``eta`` is the paper's gamma: the step goes down to (1 - eta) · t. With 0 nothing is added, with 1 it goes to clean.
    Raises BadInput unless it lies in 0 to 1.
    """

    about: ClassVar = About("TCD", "1", "1", "arXiv 2402.19159", "with eta", renoises=True)

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
        for leg, lower in zip(
            walk(times, schedule), levels((1 - self.eta) * times[1:], schedule), strict=True
        ):
            estimate = denoise(noisy, leg.level)
            noisy = straight(estimate, noisy, leg.level, lower)
            if lower.sigma < leg.after.sigma:
                noisy = renoised(noisy, lower, leg.after, noise(noisy.shape, leg.interval))
            yield leg.step(noisy, estimate)
