"""Samplers of second order with two passes a step: Heun and DPM2.

They work in scaled variables in which paths are nearly straight: y = noisy / w and u = sigma / w
for a scale w, so that dy = d(alpha / w) · clean + du · noise. With w = alpha + sigma both ends are
finite, and on the linear schedule y is noisy and u is t. With w = alpha, u is the sigma of EDM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.prediction import noise_of
from safelight.diffusion.trajectory import (
    Transition,
    add_noise,
    ancestral,
    first_order_step,
    renoise,
    require_eta,
    transitions,
)
from safelight.types.diffusion import (
    Denoise,
    Estimate,
    NoiseLevel,
    NoiseSource,
    Run,
    Sampler,
    SamplerInfo,
    Schedule,
)
from safelight.types.tensors import Latents

Space = Literal["straight", "sigma"]


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method (EDM, arXiv 2206.00364, algorithms 1 and 2).

    ``space`` is that of w = alpha + sigma, ``straight``, or that of w = alpha, ``sigma``.
    ``s_churn`` adds noise before a step whose ratio sigma / alpha lies between ``s_tmin`` and
    ``s_tmax``: the ratio is raised by min(s_churn / steps, sqrt(2) - 1) of itself, but not beyond
    the end of the schedule, and the noise is multiplied by ``s_noise``. Without ``second`` it is
    Euler's method with churn. The last step, to sigma = 0, is Euler's. Raises BadInput unless
    s_churn and its bounds are 0 or more and s_noise is positive.
    """

    info: ClassVar = SamplerInfo(
        "Heun", "2", "2", "arXiv 2206.00364", "with s_churn", renoises=True
    )

    space: Space = "straight"
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0
    second: bool = True

    def __post_init__(self) -> None:
        require(
            0 <= self.s_churn < math.inf,
            "s_churn must be 0 or more",
            self.s_churn,
            "0 is deterministic",
        )
        bounds = (self.s_tmin, self.s_tmax)
        require(
            0 <= bounds[0] <= bounds[1],
            "s_tmin must be within 0 and s_tmax",
            bounds,
            "leave them out",
        )
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
            level, noisy = self._with_churn(transition, noisy, schedule, noise)
            estimate = denoise(noisy, level)
            predicted = noise_of(estimate, noisy, level)
            noisy = transition.after.alpha * estimate.clean + transition.after.sigma * predicted
            if self.second and transition.after.sigma > 0:
                noisy = noisy + self._correction(
                    denoise(noisy, transition.after),
                    estimate,
                    predicted,
                    noisy,
                    level,
                    transition.after,
                )
            yield transition.step(noisy, estimate)

    def _correction(
        self,
        again: Estimate,
        estimate: Estimate,
        predicted: Tensor,
        noisy: Latents,
        level: NoiseLevel,
        after: NoiseLevel,
    ) -> Tensor:
        """What the second pass adds: half the difference of the slopes, times the step."""
        whole = 1.0 if self.space == "straight" else 0.0
        width, before = after.alpha + whole * after.sigma, level.alpha + whole * level.sigma
        if before == 0:
            return torch.zeros_like(noisy)
        step = after.sigma / width - level.sigma / before
        slopes = noise_of(again, noisy, after) - predicted
        slopes = slopes - whole * (again.clean - estimate.clean)
        return width * step / 2 * slopes

    def _with_churn(
        self, transition: Transition, noisy: Latents, schedule: Schedule, noise: NoiseSource
    ) -> tuple[NoiseLevel, Latents]:
        """The level where the step begins, and the latents there, after adding noise."""
        ratio = transition.level.sigma / transition.level.alpha
        if self.s_churn == 0 or not self.s_tmin <= ratio <= self.s_tmax or ratio.isinf():
            return transition.level, noisy
        gain = min(self.s_churn / transition.total, math.sqrt(2) - 1)
        higher = schedule(schedule.when(-(ratio * (1 + gain)).log()))
        return higher, renoise(
            noisy, transition.level, higher, self.s_noise * noise(noisy.shape, transition.interval)
        )


@dataclass(frozen=True)
class DPM2(Sampler):
    """A midpoint rule in sigma, with the midpoint in half-log-SNR (k-diffusion, after
    DPM-Solver-2).

    ``eta`` makes it ancestral. Steps from pure noise and to clean are Euler's. Raises BadInput
    unless eta lies in 0 to 1.
    """

    info: ClassVar = SamplerInfo("DPM2", "2", "2", "arXiv 2206.00927", "with eta", renoises=True)

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
        for transition in transitions(times, schedule):
            down, fresh = ancestral(transition.level, transition.after, self.eta)
            estimate = denoise(noisy, transition.level)
            begin, end = transition.level.half_logsnr, down.half_logsnr
            if (end - begin).isinf():
                noisy = first_order_step(estimate, noisy, transition.level, down)
            else:
                middle = schedule(schedule.when((begin + end) / 2))
                between = first_order_step(estimate, noisy, transition.level, middle)
                predicted = noise_of(denoise(between, middle), between, middle)
                ratio = down.alpha / transition.level.alpha
                noisy = ratio * noisy + (down.sigma - ratio * transition.level.sigma) * predicted
            yield transition.step(
                noisy := add_noise(noisy, fresh, noise, transition.interval), estimate
            )
