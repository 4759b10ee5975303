"""Single-step solvers: all passes of a step lie within it, so that a run may begin, stop and change pace anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from einops import reduce
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.exponential import Form
from safelight.diffusion.stages import Passes
from safelight.diffusion.trajectory import (
    About,
    ancestral,
    freshen,
    require_eta,
    require_order,
    straight,
    values,
    walk,
)
from safelight.types.diffusion import Denoise, NoiseLevel, NoiseSource, Run, Schedule, Step
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Single:
    """DPM-Solver of ``order`` 1 to 3 (arXiv 2206.00927), or with the ``form`` clean DPM-Solver++ (arXiv 2211.01095).

    ``eta`` makes it ancestral. Raises BadInput for other orders, and unless eta lies in 0 to 1.
    """

    about: ClassVar = About(
        "DPM-Solver, single-step", "1 to 3", "order", "arXiv 2206.00927, 2211.01095", "with eta"
    )

    order: int = 3
    form: Form = "noise"
    eta: float = 0.0

    def __post_init__(self) -> None:
        require_order(self.order, 3)
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
            estimate = denoise(noisy, leg.level)
            down, fresh = ancestral(leg.level, leg.after, self.eta)
            step = Passes(denoise, schedule, noisy, leg.level, estimate, down, self.form)
            noisy = freshen(step.reach(self.order), fresh, noise, leg.interval)
            yield leg.step(noisy, estimate)


@dataclass(frozen=True)
class DPMpp2S:
    """DPM-Solver++(2S) (arXiv 2211.01095, algorithm 1); with ``eta`` 1, 2S ancestral (k-diffusion)."""

    about: ClassVar = About("DPM-Solver++ 2S", "2", "2", "arXiv 2211.01095", "with eta")

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
        return Single(2, "clean", self.eta)(denoise, noisy, times, schedule, noise)


@dataclass(frozen=True)
class Adaptive:
    """DPM-Solver of order 2 or 3 that chooses its steps (arXiv 2206.00927, appendix C; control as in k-diffusion).

    It goes from the first time to the last that is not clean, and from there in one step to clean. A step is kept if
    it differs from that of the order below by about ``absolute``, or ``relative`` of the latents. Each sample has a
    pace of its own, so that it comes out the same in any batch (within the tolerance if the denoiser rounds otherwise
    there); with ``together`` the batch has one, as in k-diffusion.
    A step of the run is one trial; ``Step.level`` has a value a sample, and ``total`` is what the pace promises.

    Raises BadInput unless the tolerances are positive, and if 10,000 trials do not suffice.
    """

    about: ClassVar = About(
        "DPM-Solver, adaptive", "2 or 3", "order", "arXiv 2206.00927", "with eta", renoises=True
    )

    order: int = 3
    relative: float = 0.05
    absolute: float = 0.0078
    eta: float = 0.0
    together: bool = False

    def __post_init__(self) -> None:
        require(self.order in (2, 3), "order must be 2 or 3", self.order, "3 is usual")
        require_eta(self.eta)
        both = (self.relative, self.absolute)
        require(
            all(0 < one < math.inf for one in both),
            "tolerances must be above 0",
            both,
            "0.05 and 0.0078 are usual",
        )

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        legs = list(walk(times, schedule))
        index = 0
        while legs and legs[0].endless and len(legs) > 1:  # out of pure noise
            estimate = denoise(noisy, legs[0].level)
            noisy = straight(estimate, noisy, legs[0].level, legs[0].after)
            yield Step(index, len(legs), legs[0].after, noisy, estimate, legs[0].left)
            legs, index = legs[1:], index + 1
        final = legs[-1:] if legs and legs[-1].endless else []
        if legs[: len(legs) - len(final)]:
            last = legs[-1].level if final else legs[-1].after
            for step in self._between(denoise, noisy, legs[0].level, last, schedule, noise, index):
                noisy, index = step.noisy, step.index + 1
                yield step
        for leg in final:
            estimate = denoise(noisy, leg.level)
            noisy = straight(estimate, noisy, leg.level, leg.after)
            yield Step(index, index + 1, leg.after, noisy, estimate, leg.left)

    def _between(
        self,
        denoise: Denoise,
        noisy: Latents,
        level: NoiseLevel,
        last: NoiseLevel,
        schedule: Schedule,
        noise: NoiseSource,
        index: int,
    ) -> Iterator[Step]:
        shape = (len(noisy), *[1] * (noisy.ndim - 1))
        goal = last.half_logsnr.to(noisy.device).expand(shape)
        lam = level.half_logsnr.to(noisy.device).expand(shape)
        begin, h, before = lam, torch.full_like(lam, 0.05), noisy
        for trial in range(10_000):
            if bool((lam >= goal - 1e-5).all()):
                return
            here, there = _at(schedule, lam, noisy), torch.minimum(goal, lam + h)
            after = _at(schedule, there, noisy)
            down, fresh = self._down(here, after, goal)
            estimate = denoise(noisy, here)
            step = Passes(denoise, schedule, noisy, here, estimate, down, "noise")
            low = step.reach(self.order - 1, 1 / 3)
            high = step.reach(self.order)
            near = torch.maximum(low.abs(), before.abs()) * self.relative
            error = ((low - high) / near.clamp(min=self.absolute)).double().square()
            error = (
                error.mean().expand(shape)
                if self.together
                else reduce(error, "b ... -> b", "mean").reshape(shape)
            )
            power = 1 / (1.5 if self.eta else self.order)
            factor = 1 + torch.atan((1 / (error.sqrt() + 1e-8)) ** power - 1)
            kept = (factor >= 0.81) & (lam < goal - 1e-5)
            if self.eta and (bool(kept.any()) or not self.together):  # alone or not, a draw a trial
                high = high + fresh * noise(noisy.shape, None).to(noisy)
            before, noisy = torch.where(kept, low, before), torch.where(kept, high, noisy)
            lam, h = torch.where(kept, there, lam), h * factor
            share = float(((lam - begin) / (goal - begin)).min())
            total = index + trial + 1 + math.ceil((trial + 1) * (1 / max(share, 1e-3) - 1))
            now = _at(schedule, lam, noisy)
            yield Step(
                index + trial,
                total,
                now,
                noisy,
                estimate,
                schedule.when(torch.stack([lam.min(), goal.min()])),
            )
        require(
            False, "adaptive steps must arrive within 10000 trials", 10_000, "raise the tolerances"
        )

    def _down(self, here: NoiseLevel, after: NoiseLevel, goal: Tensor) -> tuple[NoiseLevel, Tensor]:
        """The ancestral step, which looks no further down than the ``goal``: what it reaches there is not renoised."""
        if self.eta == 0:
            return after, torch.zeros_like(after.sigma)
        down, _ = ancestral(here, after, self.eta)
        least = (after.alpha * torch.exp(-goal).to(after.alpha)).minimum(after.sigma)
        down = replace(down, sigma=down.sigma.maximum(least))
        return down, (after.sigma**2 - down.sigma**2).sqrt()


def _at(schedule: Schedule, lam: Tensor, like: Latents) -> NoiseLevel:
    """The level of each sample, no finer than the latents, so that they keep their dtype."""
    level = schedule(schedule.when(lam))
    dtype = torch.promote_types(like.dtype, torch.float32)
    return NoiseLevel(*(one.to(dtype) for one in values(level)))
