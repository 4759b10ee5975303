"""Two passes a step, second order, in a space where every path is nearly straight: Heun and DPM2.

Where w is a width, y = noisy / w and u = sigma / w, so that dy = d(alpha / w) · clean + du · noise. With w = alpha +
sigma both ends are finite, and on the linear schedule y is noisy and u is t. With w = alpha, u is the sigma of EDM.
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
    About,
    Leg,
    ancestral,
    freshen,
    renoised,
    require_eta,
    straight,
    walk,
)
from safelight.types.diffusion import Denoise, Estimate, NoiseLevel, NoiseSource, Run, Schedule
from safelight.types.tensors import Latents

Space = Literal["straight", "sigma"]


@dataclass(frozen=True)
class Heun:
    """The trapezoid rule (EDM, arXiv 2206.00364, algorithms 1 and 2), in ``straight`` space or in that of ``sigma``.

    ``churn`` adds noise before a step that begins with a ratio sigma / alpha within ``churn_from`` and ``churn_to``:
    it raises the ratio by min(churn / steps, sqrt(2) - 1) of itself, with noise ``swell`` times as large, though never
    beyond where the schedule ends. With ``second`` off it is Euler with churn. The last step, to sigma = 0, is Euler's.
    Raises BadInput unless churn and its bounds are 0 or more and swell is positive.
    """

    about: ClassVar = About("Heun", "2", "2", "arXiv 2206.00364", "with churn", renoises=True)

    space: Space = "straight"
    churn: float = 0.0
    churn_from: float = 0.0
    churn_to: float = math.inf
    swell: float = 1.0
    second: bool = True

    def __post_init__(self) -> None:
        require(
            0 <= self.churn < math.inf, "churn must be 0 or more", self.churn, "0 is deterministic"
        )
        bounds = (self.churn_from, self.churn_to)
        require(
            0 <= bounds[0] <= bounds[1],
            "churn_from must be within 0 and churn_to",
            bounds,
            "leave them out",
        )
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
            level, noisy = self._churned(leg, noisy, schedule, noise)
            estimate = denoise(noisy, level)
            found = noise_of(estimate, noisy, level)
            noisy = leg.after.alpha * estimate.clean + leg.after.sigma * found
            if self.second and leg.after.sigma > 0:
                noisy = noisy + self._bend(
                    denoise(noisy, leg.after), estimate, found, noisy, level, leg.after
                )
            yield leg.step(noisy, estimate)

    def _bend(
        self,
        again: Estimate,
        estimate: Estimate,
        found: Tensor,
        noisy: Latents,
        level: NoiseLevel,
        after: NoiseLevel,
    ) -> Tensor:
        """What the second pass changes: half the difference of the slopes, times the step."""
        whole = 1.0 if self.space == "straight" else 0.0
        width, before = after.alpha + whole * after.sigma, level.alpha + whole * level.sigma
        if before == 0:
            return torch.zeros_like(noisy)
        step = after.sigma / width - level.sigma / before
        bend = noise_of(again, noisy, after) - found - whole * (again.clean - estimate.clean)
        return width * step / 2 * bend

    def _churned(
        self, leg: Leg, noisy: Latents, schedule: Schedule, noise: NoiseSource
    ) -> tuple[NoiseLevel, Latents]:
        """The level where the step begins, and the latents there, after churning."""
        ratio = leg.level.sigma / leg.level.alpha
        if self.churn == 0 or not self.churn_from <= ratio <= self.churn_to or ratio.isinf():
            return leg.level, noisy
        gain = min(self.churn / leg.total, math.sqrt(2) - 1)
        higher = schedule(schedule.when(-(ratio * (1 + gain)).log()))
        return higher, renoised(
            noisy, leg.level, higher, self.swell * noise(noisy.shape, leg.interval)
        )


@dataclass(frozen=True)
class DPM2:
    """A midpoint rule in sigma, with the midpoint in half-log-SNR (k-diffusion, after DPM-Solver-2).

    ``eta`` makes it ancestral. Steps from pure noise and to clean are Euler's. Raises BadInput unless eta lies in
    0 to 1.
    """

    about: ClassVar = About("DPM2", "2", "2", "arXiv 2206.00927", "with eta", renoises=True)

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
        for leg in walk(times, schedule):
            down, fresh = ancestral(leg.level, leg.after, self.eta)
            estimate = denoise(noisy, leg.level)
            begin, end = leg.level.half_logsnr, down.half_logsnr
            if (end - begin).isinf():
                noisy = straight(estimate, noisy, leg.level, down)
            else:
                middle = schedule(schedule.when((begin + end) / 2))
                between = straight(estimate, noisy, leg.level, middle)
                found = noise_of(denoise(between, middle), between, middle)
                ratio = down.alpha / leg.level.alpha
                noisy = ratio * noisy + (down.sigma - ratio * leg.level.sigma) * found
            yield leg.step(noisy := freshen(noisy, fresh, noise, leg.interval), estimate)


@dataclass(frozen=True)
class DPM2Ancestral:
    """DPM2 with fresh noise at every step (k-diffusion)."""

    about: ClassVar = About("DPM2 ancestral", "1", "2", "arXiv 2206.00927", "always", renoises=True)
    kind: ClassVar = "dpm2-ancestral"

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
        return DPM2(self.eta)(denoise, noisy, times, schedule, noise)
