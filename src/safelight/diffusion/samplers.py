"""Samplers: from noise to clean, as generators of ``Step``. The ``noisy`` of the last step is the clean result.

They see levels only, so that one formula serves every schedule. Coefficients are 0-dimensional float64 tensors:
the latents keep their dtype and device. ``Step.index`` counts from 0; ``Step.estimate`` is what the step set out from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from safelight.diffusion.checks import demand
from safelight.diffusion.prediction import noise_of
from safelight.types import Denoise, Latents, NoiseLevel, NoiseSource, Schedule, Step


@dataclass(frozen=True)
class Euler:
    """One pass a step, along the straight line through clean and noise: Euler for flows, DDIM (arXiv 2010.02502).

    ``eta`` trades noise that was found for fresh noise: 0 is deterministic, 1 is the ancestral sampling of DDPM
    (arXiv 2006.11239). Raises BadInput unless it lies in 0 to 1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        demand(0 <= self.eta <= 1, "eta must be from 0 to 1", self.eta, "0 is deterministic, 1 is ancestral")

    def __call__(
        self, denoise: Denoise, noisy: Latents, times: Tensor, schedule: Schedule, noise: NoiseSource
    ) -> Iterator[Step]:
        for leg in _walk(times, schedule):
            estimate = denoise(noisy, leg.level)
            fresh = self.eta * leg.after.sigma * (-torch.expm1(-2 * leg.h)).sqrt()
            kept = (leg.after.sigma**2 - fresh**2).sqrt()
            noisy = leg.after.alpha * estimate.clean + kept * noise_of(estimate, noisy, leg.level)
            if fresh > 0:
                noisy = noisy + fresh * noise(noisy.shape, leg.interval).to(noisy)
            yield Step(leg.index, leg.total, leg.after, noisy, estimate)


@dataclass(frozen=True)
class Heun:
    """Two passes a step, second order (EDM, arXiv 2206.00364, algorithm 1), where every path is straight.

    With y = noisy / (alpha + sigma) and u = sigma / (alpha + sigma), dy/du = noise - clean: finite at both ends, and
    on the linear schedule y is noisy and u is t. The last step, to sigma = 0, is Euler's.
    """

    def __call__(
        self, denoise: Denoise, noisy: Latents, times: Tensor, schedule: Schedule, noise: NoiseSource
    ) -> Iterator[Step]:
        for leg in _walk(times, schedule):
            estimate = denoise(noisy, leg.level)
            found = noise_of(estimate, noisy, leg.level)
            noisy = leg.after.alpha * estimate.clean + leg.after.sigma * found
            if leg.after.sigma > 0:
                again = denoise(noisy, leg.after)
                bend = noise_of(again, noisy, leg.after) - again.clean - (found - estimate.clean)
                width = leg.after.alpha + leg.after.sigma
                step = leg.after.sigma / width - leg.level.sigma / (leg.level.alpha + leg.level.sigma)
                noisy = noisy + width * step / 2 * bend
            yield Step(leg.index, leg.total, leg.after, noisy, estimate)


@dataclass(frozen=True)
class DPMpp2M:
    """One pass a step, second order: DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2).

    It leans on the estimate of the step before. Where that one or this one is infinitely long in half-log-SNR (from
    pure noise, or to clean), the step is of first order.
    """

    def __call__(
        self, denoise: Denoise, noisy: Latents, times: Tensor, schedule: Schedule, noise: NoiseSource
    ) -> Iterator[Step]:
        before, h_before = noisy, torch.tensor(math.inf)  # as after an infinite step: it has no say
        for leg in _walk(times, schedule):
            estimate = denoise(noisy, leg.level)
            lean = torch.zeros(()) if leg.h.isinf() else leg.h / (2 * h_before)
            ahead = estimate.clean + lean * (estimate.clean - before)
            noisy = leg.after.sigma / leg.level.sigma * noisy - leg.after.alpha * torch.expm1(-leg.h) * ahead
            before, h_before = estimate.clean, leg.h
            yield Step(leg.index, leg.total, leg.after, noisy, estimate)


@dataclass(frozen=True, eq=False)
class _Leg:
    index: int
    total: int
    level: NoiseLevel
    after: NoiseLevel
    interval: tuple[float, float]

    @property
    def h(self) -> Tensor:
        """The length of the step in half-log-SNR."""
        return self.after.half_logsnr - self.level.half_logsnr


def _walk(times: Tensor, schedule: Schedule) -> Iterator[_Leg]:
    # On the CPU, 0-dimensional float64 joins latents of any device and dtype without changing them.
    for index, (here, there) in enumerate(pairwise(times.to("cpu", torch.float64))):
        yield _Leg(index, len(times) - 1, schedule(here), schedule(there), (float(here), float(there)))
