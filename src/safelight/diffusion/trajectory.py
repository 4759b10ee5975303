"""What samplers share: the transitions of a trajectory, and the parts of a step.

Coefficients are 0-dimensional float64 tensors on the CPU: the latents keep their dtype and device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.diffusion import Estimate, NoiseLevel, NoiseSource, Schedule, Step
from safelight.types.tensors import Latents


@dataclass(frozen=True, eq=False)
class Transition:
    """What one step has to do: go from ``level`` to ``after``.

    ``interval`` holds the two times, ``left`` the times that are still to visit after it, beginning
    with that of ``after``.
    """

    index: int
    total: int
    level: NoiseLevel
    after: NoiseLevel
    interval: tuple[float, float]
    left: Tensor

    @property
    def is_infinite(self) -> bool:
        """Whether it comes from pure noise or goes to clean.

        Half-log-SNR is infinite there, and no polynomial in it exists: the step is of first order.
        """
        return bool(self.level.alpha == 0) or bool(self.after.sigma == 0)

    def step(self, noisy: Latents, estimate: Estimate) -> Step:
        """The finished step."""
        return Step(self.index, self.total, self.after, noisy, estimate, self.left)


def transitions(times: Tensor, schedule: Schedule) -> Iterator[Transition]:
    """The transitions between ``times``.

    Raises BadInput, before the first, unless the times are finite and fall strictly.
    """
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
        yield Transition(index, len(times) - 1, level, after, interval, times[index + 1 :])


def levels(times: Tensor, schedule: Schedule) -> list[NoiseLevel]:
    """The noise level of each of the ``times``; the schedule is called once for all."""
    # On the CPU, 0-dimensional float64 joins latents of any device and dtype without changing them.
    columns = [value.unbind() for value in values(schedule(times.to("cpu", torch.float64)))]
    return [NoiseLevel(*row) for row in zip(*columns, strict=True)]


def values(level: NoiseLevel) -> tuple[Tensor, ...]:
    """The fields of a noise level, in their order."""
    return level.time, level.alpha, level.sigma, level.d_alpha, level.d_sigma


def image_to_image_start(
    clean: Latents, strength: float, times: Tensor, schedule: Schedule, noise: NoiseSource
) -> tuple[Latents, Tensor]:
    """Where image-to-image begins: noised latents, and the times that are left.

    ``clean`` is noised to where the last ``strength`` of the steps begin. These are counted in
    whole steps, rounded down, as is usual for image-to-image; with strength 0 there are none, and
    the latents stay as they are. Raises BadInput unless strength lies in 0 to 1.
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


def first_order_step(
    estimate: Estimate, noisy: Latents, level: NoiseLevel, after: NoiseLevel
) -> Latents:
    """The estimated clean latents and noise, at the level ``after``: a step of Euler or DDIM."""
    if estimate.noise is not None:
        return after.alpha * estimate.clean + after.sigma * estimate.noise
    keep = after.sigma / level.sigma  # the noise is written out: half the arithmetic
    return keep * noisy + (after.alpha - keep * level.alpha) * estimate.clean


def ancestral(level: NoiseLevel, after: NoiseLevel, eta: float) -> tuple[NoiseLevel, Tensor]:
    """An ancestral step: ``after`` with less noise, and the deviation of the fresh noise.

    The fresh noise is to be added at the reduced level (``sigma_down`` and ``sigma_up`` of
    k-diffusion). With ``eta`` 1 it is the posterior of DDPM (arXiv 2006.11239, eq. 7), below that
    as in DDIM (arXiv 2010.02502, eq. 16): eta · sigma · sqrt(1 - exp(-2h)).
    """
    h = after.half_logsnr - level.half_logsnr
    fresh = eta * after.sigma * (-torch.expm1(-2 * h)).sqrt()
    return replace(after, sigma=(after.sigma**2 - fresh**2).clamp(min=0).sqrt()), fresh


def sde_step(level: NoiseLevel, after: NoiseLevel, eta: float) -> tuple[NoiseLevel, Tensor]:
    """A step of the reverse SDE: ``after`` with less noise, and the deviation of the fresh noise.

    Old noise decays at the rate ``eta`` all along the step, and sqrt(1 - exp(-2 eta h)) of the
    noise is fresh (arXiv 2309.05019, eq. 10, with eta = tau²). With eta 1 it is the same as
    ``ancestral``.
    """
    if eta == 0:
        return after, torch.zeros_like(after.sigma)
    decay = eta * (after.half_logsnr - level.half_logsnr)
    down = replace(after, sigma=after.sigma * torch.exp(-decay))
    return down, after.sigma * (-torch.expm1(-2 * decay)).sqrt()


def add_noise(
    noisy: Latents, deviation: Tensor, noise: NoiseSource, interval: tuple[float, float]
) -> Latents:
    """``noisy`` with fresh noise of this standard deviation; for 0 nothing is drawn."""
    return noisy + deviation * noise(noisy.shape, interval).to(noisy) if deviation > 0 else noisy


def renoise(noisy: Latents, level: NoiseLevel, higher: NoiseLevel, draws: Tensor) -> Latents:
    """``noisy`` taken from ``level`` back to a ``higher`` one by the forward process.

    ``draws`` are standard normal.
    """
    ratio = higher.alpha / level.alpha
    deviation = (higher.sigma**2 - (ratio * level.sigma) ** 2).clamp(min=0).sqrt()
    return ratio * noisy + deviation * draws.to(noisy)


def require_eta(eta: float) -> None:
    """Raises BadInput unless ``eta`` lies in 0 to 1."""
    require(0 <= eta <= 1, "eta must be from 0 to 1", eta, "0 is deterministic, 1 is ancestral")


def require_order(order: int, most: int) -> None:
    """Raises BadInput unless ``order`` is from 1 to ``most``."""
    require(
        1 <= order <= most, f"order must be from 1 to {most}", order, "2 is usual with guidance"
    )
