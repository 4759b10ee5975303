"""Adams methods for the noise.

LMS in sigma, PLMS with the constants of even steps, DEIS in half-log-SNR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safelight.diffusion.exponential import History, add_weighted, advance, lagrange, nodes_of
from safelight.diffusion.prediction import noise_of
from safelight.diffusion.trajectory import first_order_step, require_order, transitions
from safelight.types.diffusion import (
    Denoise,
    NoiseLevel,
    NoiseSource,
    Run,
    Sampler,
    SamplerInfo,
    Schedule,
)
from safelight.types.tensors import Latents

_ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@dataclass(frozen=True)
class LMS(Sampler):
    """Linear multistep (k-diffusion): the noise is a polynomial in sigma / alpha.

    The polynomial goes through up to ``order`` passes. The first steps have lower orders, so that a
    run is of second order. A step from pure noise is Euler's.
    """

    info: ClassVar = SamplerInfo(
        "LMS", "2", "1", "arXiv 2206.00364, appendix", "never", renoises=True
    )

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
        for transition in transitions(times, schedule):
            level, after = transition.level, transition.after
            estimate = denoise(noisy, level)
            if level.alpha > 0:
                here, there = level.sigma / level.alpha, after.sigma / after.alpha
                past = [(here, noise_of(estimate, noisy, level)), *past][: self.order]
                even = [1 / (k + 1) for k in range(len(past))]
                weights = lagrange(
                    [float((sigma - here) / (there - here)) for sigma, _ in past], even
                )
                noisy = add_weighted(
                    after.alpha / level.alpha * noisy,
                    after.alpha * (there - here),
                    weights,
                    [found for _, found in past],
                )
            else:
                noisy = first_order_step(estimate, noisy, level, after)
            yield transition.step(noisy, estimate)


@dataclass(frozen=True)
class PNDM(Sampler):
    """PNDM (arXiv 2202.09778): steps of DDIM with the noise of Adams-Bashforth for even steps.

    It is PLMS as Stable Diffusion runs it: the first step averages two passes. With ``runge_kutta``
    each of the first three takes the four passes of the paper, half-way in t.
    """

    info: ClassVar = SamplerInfo("PNDM, PLMS", "2", "1", "arXiv 2202.09778", renoises=True)

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
        for transition in transitions(times, schedule):
            level, after = transition.level, transition.after
            estimate = denoise(noisy, level)
            predicted = noise_of(estimate, noisy, level)
            past = [predicted, *past][:4]
            if transition.is_infinite:
                past = past if level.alpha > 0 else []
                noisy = first_order_step(estimate, noisy, level, after)
                yield transition.step(noisy, estimate)
                continue
            if self.runge_kutta and len(past) < 4:
                middle = schedule(torch.tensor(sum(transition.interval) / 2, dtype=torch.float64))
                mean = self._runge_kutta(denoise, noisy, level, middle, after, predicted)
                noisy = _ddim_step(noisy, level, after, [mean])
            elif len(past) == 1:
                ahead = _ddim_step(noisy, level, after, [predicted])
                again = noise_of(denoise(ahead, after), ahead, after)
                noisy = _ddim_step(noisy, level, after, [predicted, again], (0.5, 0.5))
            else:
                noisy = _ddim_step(noisy, level, after, past, _ADAMS[len(past) - 1])
            yield transition.step(noisy, estimate)

    def _runge_kutta(
        self,
        denoise: Denoise,
        noisy: Latents,
        level: NoiseLevel,
        middle: NoiseLevel,
        after: NoiseLevel,
        predicted: Tensor,
    ) -> Tensor:
        """The mean noise of the four passes of a Runge-Kutta step."""
        total, latest = predicted / 6, predicted
        for there, weight in ((middle, 1 / 3), (middle, 1 / 3), (after, 1 / 6)):
            ahead = _ddim_step(noisy, level, there, [latest])
            latest = noise_of(denoise(ahead, there), ahead, there)
            total = total + weight * latest
        return total


def _ddim_step(
    noisy: Latents,
    level: NoiseLevel,
    after: NoiseLevel,
    noises: Sequence[Tensor],
    weights: Sequence[float] = (1.0,),
) -> Latents:
    """A step of DDIM with a weighted sum of noises."""
    ratio = after.alpha / level.alpha
    return add_weighted(ratio * noisy, float(after.sigma - ratio * level.sigma), weights, noises)


@dataclass(frozen=True)
class DEIS(Sampler):
    """Exponential Adams-Bashforth (arXiv 2204.13902, tab-DEIS).

    The noise is a polynomial in half-log-SNR through up to ``order`` passes, integrated exactly.
    ``lower_last`` limits the second last step to order 2. The first steps have lower orders, so
    that a run is of second order. Steps from pure noise and to clean are Euler's.
    """

    info: ClassVar = SamplerInfo("DEIS", "1 to 2", "1", "arXiv 2204.13902", renoises=True)

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
        for transition in transitions(times, schedule):
            estimate = denoise(noisy, transition.level)
            past = [
                (transition.level.half_logsnr, noise_of(estimate, noisy, transition.level)),
                *past,
            ][: self.order]
            if transition.is_infinite:
                noisy = first_order_step(estimate, noisy, transition.level, transition.after)
            else:
                most = (
                    min(self.order, transition.total - transition.index)
                    if self.lower_last
                    else self.order
                )
                noisy = advance(
                    noisy,
                    transition.level,
                    transition.after,
                    nodes_of(past, transition.level, transition.after, most),
                    "noise",
                )
            yield transition.step(noisy, estimate)
