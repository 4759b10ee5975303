"""What samplers share: the legs of a walk over times, the straight step, and how a step makes room for fresh noise.

Coefficients are 0-dimensional float64 tensors: the latents keep their dtype and device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.diffusion import Estimate, NoiseLevel, NoiseSource, Schedule, Step
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class About:
    """What is known of a sampler: its name in the field, the order of its error in the size of a step, the passes
    that a step costs, when it draws noise, and the paper.

    ``brownian``: its draws are increments of a Brownian path, so that other steps follow the same path. ``renoises``:
    it puts the noise back that was found, so that a rule which says which noise that is (CFG++) counts; a sampler with
    a ``form`` does so if that is noise.
    """

    name: str
    order: str
    passes: str
    paper: str
    draws: Literal["never", "with eta", "with churn", "always"] = "never"
    brownian: bool = False
    renoises: bool = False


@dataclass(frozen=True, eq=False)
class Leg:
    """One step of a walk: from ``level`` to ``after``, and the times that are ``left`` once it is done."""

    index: int
    total: int
    level: NoiseLevel
    after: NoiseLevel
    interval: tuple[float, float]
    left: Tensor

    @property
    def h(self) -> Tensor:
        """The length of the step in half-log-SNR."""
        return self.after.half_logsnr - self.level.half_logsnr

    @property
    def endless(self) -> bool:
        """True if the step comes from pure noise or goes to clean: no polynomial spans it, so it is of first order."""
        return bool(self.level.alpha == 0) or bool(self.after.sigma == 0)

    def step(self, noisy: Latents, estimate: Estimate) -> Step:
        return Step(self.index, self.total, self.after, noisy, estimate, self.left)


def walk(times: Tensor, schedule: Schedule) -> Iterator[Leg]:
    """The legs between ``times``. Raises BadInput, before the first, unless they are finite and fall strictly."""
    times = times.to("cpu", torch.float64)
    fall = times.ndim == 1 and bool(times.isfinite().all()) and bool((times.diff() < 0).all())
    require(
        fall and len(times) > 0,
        "times must be finite and fall",
        times.tolist(),
        "take them from a spacing",
    )
    both = zip(pairwise(levels(times, schedule)), pairwise(times.tolist()), strict=True)
    for index, ((level, after), interval) in enumerate(both):
        yield Leg(index, len(times) - 1, level, after, interval, times[index + 1 :])


def levels(times: Tensor, schedule: Schedule) -> list[NoiseLevel]:
    """The level of each of the ``times``, the schedule asked once for all."""
    # On the CPU, 0-dimensional float64 joins latents of any device and dtype without changing them.
    every = [value.unbind() for value in values(schedule(times.to("cpu", torch.float64)))]
    return [NoiseLevel(*each) for each in zip(*every, strict=True)]


def values(level: NoiseLevel) -> tuple[Tensor, ...]:
    """The fields of a level, in their order."""
    return level.time, level.alpha, level.sigma, level.d_alpha, level.d_sigma


def partway(
    clean: Latents, strength: float, times: Tensor, schedule: Schedule, noise: NoiseSource
) -> tuple[Latents, Tensor]:
    """A picture to begin from: ``clean`` noised to where the last ``strength`` of the steps begin, and their times.

    The steps are counted in whole ones, rounded down, as image-to-image has it everywhere; with strength 0 there are
    none, and the picture stays as it is. Raises BadInput unless strength lies in 0 to 1.
    """
    require(
        0 <= strength <= 1,
        "strength must be from 0 to 1",
        strength,
        "1 begins from pure noise, 0 changes nothing",
    )
    total = len(times) - 1
    left = times[total - int(total * strength + 1e-9) :]
    if len(left) == 1:
        return clean, left
    level = schedule(left[0].to("cpu", torch.float64))
    return level.alpha * clean + level.sigma * noise(clean.shape, None).to(clean), left


def straight(estimate: Estimate, noisy: Latents, level: NoiseLevel, after: NoiseLevel) -> Latents:
    """A step of first order: the same clean latents and the same noise, at ``after``."""
    if estimate.noise is not None:
        return after.alpha * estimate.clean + after.sigma * estimate.noise
    keep = after.sigma / level.sigma  # the noise, written out: half the arithmetic
    return keep * noisy + (after.alpha - keep * level.alpha) * estimate.clean


def ancestral(level: NoiseLevel, after: NoiseLevel, eta: float) -> tuple[NoiseLevel, Tensor]:
    """``after`` with less noise, and the deviation of the fresh noise that is to be added there.

    With ``eta`` 1 it is the posterior of DDPM (arXiv 2006.11239, eq. 7); in between as DDIM has it (arXiv 2010.02502,
    eq. 16): eta · sigma · sqrt(1 - exp(-2h)).
    """
    fresh = eta * after.sigma * (-torch.expm1(-2 * (after.half_logsnr - level.half_logsnr))).sqrt()
    return replace(after, sigma=(after.sigma**2 - fresh**2).clamp(min=0).sqrt()), fresh


def diffused(level: NoiseLevel, after: NoiseLevel, eta: float) -> tuple[NoiseLevel, Tensor]:
    """The same where noise decays at the rate ``eta`` all the way: the reverse SDE, solved exactly.

    Here sqrt(1 - exp(-2 eta h)) is fresh (arXiv 2309.05019, eq. 10, with eta = tau²); with eta 1 the two are one.
    """
    if eta == 0:
        return after, torch.zeros_like(after.sigma)
    decay = eta * (after.half_logsnr - level.half_logsnr)
    return replace(after, sigma=after.sigma * torch.exp(-decay)), after.sigma * (
        -torch.expm1(-2 * decay)
    ).sqrt()


def freshen(
    noisy: Latents, fresh: Tensor, noise: NoiseSource, interval: tuple[float, float]
) -> Latents:
    """``noisy`` with fresh noise of the deviation ``fresh``; nothing is drawn if that is 0."""
    return noisy + fresh * noise(noisy.shape, interval).to(noisy) if fresh > 0 else noisy


def renoised(noisy: Latents, level: NoiseLevel, higher: NoiseLevel, fresh: Tensor) -> Latents:
    """``noisy`` as the forward process takes it from ``level`` to a ``higher`` one with standard normal ``fresh``."""
    ratio = higher.alpha / level.alpha
    return ratio * noisy + (higher.sigma**2 - (ratio * level.sigma) ** 2).clamp(
        min=0
    ).sqrt() * fresh.to(noisy)


def require_eta(eta: float) -> None:
    require(0 <= eta <= 1, "eta must be from 0 to 1", eta, "0 is deterministic, 1 is ancestral")


def require_order(order: int, most: int) -> None:
    require(
        1 <= order <= most, f"order must be from 1 to {most}", order, "2 is usual with guidance"
    )
