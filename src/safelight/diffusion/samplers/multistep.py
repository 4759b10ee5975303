"""Adams methods on the noise: LMS in sigma, PLMS with the constants of even steps, DEIS in half-log-SNR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safelight.diffusion.exponential import History, advance, lagrange, mixed, placed
from safelight.diffusion.prediction import noise_of
from safelight.diffusion.trajectory import About, require_order, straight, walk
from safelight.types.diffusion import Denoise, NoiseLevel, NoiseSource, Run, Schedule
from safelight.types.tensors import Latents

_ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@dataclass(frozen=True)
class LMS:
    """Linear multistep: the noise is a polynomial in sigma / alpha through up to ``order`` passes (k-diffusion).

    It starts with lower orders, so the whole is of second order. A step from pure noise is Euler's.
    """

    about: ClassVar = About("LMS", "2", "1", "arXiv 2206.00364, appendix", "never", renoises=True)

    order: int = 4

    def __post_init__(self) -> None:
        require_order(self.order, 4)

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        past: History = []
        for leg in walk(times, schedule):
            level, after = leg.level, leg.after
            estimate = denoise(noisy, level)
            if level.alpha > 0:
                here, there = level.sigma / level.alpha, after.sigma / after.alpha
                past = [(here, noise_of(estimate, noisy, level)), *past][: self.order]
                even = [1 / (k + 1) for k in range(len(past))]
                weights = lagrange(
                    [float((sigma - here) / (there - here)) for sigma, _ in past], even
                )
                noisy = mixed(
                    after.alpha / level.alpha * noisy,
                    after.alpha * (there - here),
                    weights,
                    [found for _, found in past],
                )
            else:
                noisy = straight(estimate, noisy, level, after)
            yield leg.step(noisy, estimate)


@dataclass(frozen=True)
class PNDM:
    """Pseudo numerical methods (arXiv 2202.09778): DDIM's step with the noise of Adams-Bashforth for even steps.

    It is PLMS, as Stable Diffusion runs it: the first step averages two passes; with ``runge_kutta`` the first three
    take the paper's four passes each, half-way in t.
    """

    about: ClassVar = About("PNDM, PLMS", "2", "1", "arXiv 2202.09778", renoises=True)

    runge_kutta: bool = False

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        past: list[Tensor] = []
        for leg in walk(times, schedule):
            level, after = leg.level, leg.after
            estimate = denoise(noisy, level)
            found = noise_of(estimate, noisy, level)
            past = [found, *past][:4]
            if leg.endless:
                past = past if level.alpha > 0 else []
                yield leg.step(noisy := straight(estimate, noisy, level, after), estimate)
                continue
            if self.runge_kutta and len(past) < 4:
                middle = schedule(torch.tensor(sum(leg.interval) / 2, dtype=torch.float64))
                noisy = _moved(
                    noisy, level, after, [self._four(denoise, noisy, level, middle, after, found)]
                )
            elif len(past) == 1:
                ahead = _moved(noisy, level, after, [found])
                again = noise_of(denoise(ahead, after), ahead, after)
                noisy = _moved(noisy, level, after, [found, again], (0.5, 0.5))
            else:
                noisy = _moved(noisy, level, after, past, _ADAMS[len(past) - 1])
            yield leg.step(noisy, estimate)

    def _four(
        self,
        denoise: Denoise,
        noisy: Latents,
        level: NoiseLevel,
        middle: NoiseLevel,
        after: NoiseLevel,
        found: Tensor,
    ) -> Tensor:
        """The mean noise of a Runge-Kutta step."""
        total, one = found / 6, found
        for there, share in ((middle, 1 / 3), (middle, 1 / 3), (after, 1 / 6)):
            ahead = _moved(noisy, level, there, [one])
            one = noise_of(denoise(ahead, there), ahead, there)
            total = total + share * one
        return total


def _moved(
    noisy: Latents,
    level: NoiseLevel,
    after: NoiseLevel,
    found: Sequence[Tensor],
    shares: Sequence[float] = (1.0,),
) -> Latents:
    """DDIM's step with these shares of noise."""
    ratio = after.alpha / level.alpha
    return mixed(ratio * noisy, float(after.sigma - ratio * level.sigma), shares, found)


@dataclass(frozen=True)
class DEIS:
    """Exponential Adams-Bashforth (arXiv 2204.13902, tab-DEIS): the noise is a polynomial in half-log-SNR through up to
    ``order`` passes, and the integral exact. ``lower_last`` takes the second last step at order 2 at most.

    It starts with lower orders, so the whole is of second order. Steps from pure noise and to clean are Euler's.
    """

    about: ClassVar = About("DEIS", "1 to 2", "1", "arXiv 2204.13902", renoises=True)

    order: int = 3
    lower_last: bool = False

    def __post_init__(self) -> None:
        require_order(self.order, 4)

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        past: History = []
        for leg in walk(times, schedule):
            estimate = denoise(noisy, leg.level)
            past = [(leg.level.half_logsnr, noise_of(estimate, noisy, leg.level)), *past][
                : self.order
            ]
            if leg.endless:
                noisy = straight(estimate, noisy, leg.level, leg.after)
            else:
                most = min(self.order, leg.total - leg.index) if self.lower_last else self.order
                noisy = advance(
                    noisy, leg.level, leg.after, placed(past, leg.level, leg.after, most), "noise"
                )
            yield leg.step(noisy, estimate)
