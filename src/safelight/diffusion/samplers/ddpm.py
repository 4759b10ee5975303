"""Ancestral sampling as in DDPM, with a fixed or a learned variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from safelight.diffusion.compatibility import NO_VARIANCE
from safelight.diffusion.trajectory import transitions
from safelight.errors import BadInput
from safelight.types.diffusion import Denoise, NoiseSource, Run, Sampler, SamplerInfo, Schedule
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class DDPM(Sampler):
    """The mean of the posterior and a variance between its bounds (arXiv 2006.11239, section 3.2).

    ``variance``: ``small`` is that of the posterior, right for a known clean picture; ``large``
    that of the forward step, right for pure noise; ``learned`` is what the network predicts (arXiv
    2102.09672, eq. 15), and raises BadInput if it predicts none. A step to clean adds no noise.
    """

    info: ClassVar = SamplerInfo(
        "DDPM ancestral", "1", "1", "arXiv 2006.11239, 2102.09672", "always"
    )

    variance: Literal["small", "large", "learned"] = "small"

    @property
    def needs_variance(self) -> bool:
        return self.variance == "learned"

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        for transition in transitions(times, schedule):
            level, after = transition.level, transition.after
            estimate = denoise(noisy, level)
            ratio = level.alpha / after.alpha
            forward = (
                level.sigma**2 - (ratio * after.sigma) ** 2
            )  # what noise the forward process adds on the way
            lower = (after.sigma / level.sigma) ** 2 * forward
            noisy = ratio * (after.sigma / level.sigma) ** 2 * noisy + (
                after.alpha * forward / level.sigma**2 * estimate.clean
            )
            fresh: Tensor = {"small": lower, "large": forward, "learned": lower}[
                self.variance
            ].sqrt()
            if self.variance == "learned" and after.sigma > 0:
                if estimate.variance is None:
                    raise BadInput(NO_VARIANCE)
                fresh = fresh * (forward / lower) ** (estimate.variance / 2).to(noisy)
            if after.sigma > 0:
                noisy = noisy + fresh * noise(noisy.shape, transition.interval).to(noisy)
            yield transition.step(noisy, estimate)
