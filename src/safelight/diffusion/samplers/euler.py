"""One pass a step, first order: Euler, DDIM and ancestral sampling, which are one formula, and DDIM run backwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.prediction import noise_of
from safelight.diffusion.trajectory import About, ancestral, freshen, require_eta, straight, walk
from safelight.types.diffusion import Denoise, NoiseSource, Run, Schedule, Step
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Euler:
    """One pass a step, along the straight line through clean and noise: Euler for flows, DDIM (arXiv 2010.02502).

    ``eta`` trades noise that was found for fresh noise: 0 is deterministic, 1 is the ancestral sampling of DDPM
    (arXiv 2006.11239). The fresh noise is drawn ``swell`` times as large. Raises BadInput unless eta lies in 0 to 1
    and swell is positive.
    """

    about: ClassVar = About(
        "Euler", "1", "1", "arXiv 2206.00364, 2010.02502", "with eta", renoises=True
    )

    eta: float = 0.0
    swell: float = 1.0

    def __post_init__(self) -> None:
        require_eta(self.eta)
        require(0 < self.swell < math.inf, "swell must be above 0", self.swell, "1 is exact")

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
            down, fresh = ancestral(leg.level, leg.after, self.eta)
            noisy = straight(estimate, noisy, leg.level, down)
            noisy = freshen(noisy, self.swell * fresh, noise, leg.interval)
            yield leg.step(noisy, estimate)


@dataclass(frozen=True)
class DDIM:
    """Euler by the name that variance-preserving models know it by (arXiv 2010.02502, eq. 12 and 16)."""

    about: ClassVar = About("DDIM", "1", "1", "arXiv 2010.02502", "with eta", renoises=True)

    eta: float = 0.0

    def __post_init__(self) -> None:
        require_eta(self.eta)

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        return Euler(self.eta)(denoise, noisy, times, schedule, noise)


@dataclass(frozen=True)
class EulerAncestral:
    """Euler with fresh noise at every step (k-diffusion); with ``eta`` 1 the sampling of DDPM, on any schedule."""

    about: ClassVar = About(
        "Euler ancestral", "1", "1", "arXiv 2006.11239", "always", renoises=True
    )

    eta: float = 1.0

    def __post_init__(self) -> None:
        require_eta(self.eta)

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        return Euler(self.eta)(denoise, noisy, times, schedule, noise)


@dataclass(frozen=True)
class DDIMInversion:
    """DDIM from clean to noise (arXiv 2010.02502, section 4.3): the noise from which DDIM makes the given latents.

    ``noisy`` lies at the last of the times, and the steps go up to the first. From clean latents, which hold no noise
    to find, the first step asks as if they lay where it goes.
    """

    about: ClassVar = About("DDIM inversion", "1", "1", "arXiv 2010.02502", renoises=True)
    kind: ClassVar = "ddim-inversion"

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        for index, leg in enumerate(reversed(list(walk(times, schedule)))):
            level, after = leg.after, leg.level
            asked = level if level.sigma > 0 else after
            estimate = denoise(noisy, asked)
            ratio = after.alpha / level.alpha
            noisy = ratio * noisy + (after.sigma - ratio * level.sigma) * noise_of(
                estimate, noisy, asked
            )
            left = torch.as_tensor(times)[: leg.index + 1]
            yield Step(index, leg.total, after, noisy, estimate, left)
