"""Single-step solvers: all network passes of a step lie within it, none before."""

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
from safelight.diffusion.stages import Stages
from safelight.diffusion.trajectory import (
    add_noise,
    ancestral,
    first_order_step,
    require_eta,
    require_order,
    transitions,
    values,
)
from safelight.types.diffusion import (
    Denoise,
    NoiseLevel,
    NoiseSource,
    Run,
    Sampler,
    SamplerInfo,
    Schedule,
    Step,
)
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Single(Sampler):
    """DPM-Solver of ``order`` 1 to 3 (arXiv 2206.00927).

    With the ``form`` clean it is DPM-Solver++ (arXiv 2211.01095). ``eta`` makes it ancestral.
    Raises BadInput for other orders, and unless eta lies in 0 to 1.
    """

    info: ClassVar = SamplerInfo(
        "DPM-Solver, single-step", "1 to 3", "order", "arXiv 2206.00927, 2211.01095", "with eta"
    )

    order: int = 3
    form: Form = "noise"
    eta: float = 0.0

    def __post_init__(self) -> None:
        require_order(self.order, 3)
        require_eta(self.eta)

    @property
    def renoises(self) -> bool:
        """Whether the polynomial is one of the predicted noise."""
        return self.form == "noise"

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        for transition in transitions(times, schedule):
            estimate = denoise(noisy, transition.level)
            down, fresh = ancestral(transition.level, transition.after, self.eta)
            step = Stages(denoise, schedule, noisy, transition.level, estimate, down, self.form)
            noisy = add_noise(step.step(self.order), fresh, noise, transition.interval)
            yield transition.step(noisy, estimate)


@dataclass(frozen=True)
class Adaptive(Sampler):
    """DPM-Solver of order 2 or 3 with adaptive steps.

    arXiv 2206.00927, appendix C; step-size control as in k-diffusion. It goes from the first time
    to the last that is not clean, and from there in one step to clean. A step is accepted if it
    differs from that of the order below by about ``absolute``, or by ``relative`` of the latents.
    Each sample has its own step size, so that it comes out the same in any batch (within the
    tolerance, if the denoiser rounds differently there); with ``together`` the batch has one, as in
    k-diffusion.

    Each step of the run is one trial; its ``level`` has one value for each sample, and its
    ``total`` is an estimate. Raises BadInput unless the tolerances are positive, and if 10,000
    trials do not suffice.
    """

    info: ClassVar = SamplerInfo(
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
            all(0 < value < math.inf for value in both),
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
        remaining = list(transitions(times, schedule))
        index = 0
        while remaining and remaining[0].is_infinite and len(remaining) > 1:  # from pure noise
            estimate = denoise(noisy, remaining[0].level)
            noisy = first_order_step(estimate, noisy, remaining[0].level, remaining[0].after)
            yield Step(
                index, len(remaining), remaining[0].after, noisy, estimate, remaining[0].left
            )
            remaining, index = remaining[1:], index + 1
        final = remaining[-1:] if remaining and remaining[-1].is_infinite else []
        if remaining[: len(remaining) - len(final)]:
            last = remaining[-1].level if final else remaining[-1].after
            for step in self._between(
                denoise, noisy, remaining[0].level, last, schedule, noise, index
            ):
                noisy, index = step.noisy, step.index + 1
                yield step
        for transition in final:
            estimate = denoise(noisy, transition.level)
            noisy = first_order_step(estimate, noisy, transition.level, transition.after)
            yield Step(index, index + 1, transition.after, noisy, estimate, transition.left)

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
            step = Stages(denoise, schedule, noisy, here, estimate, down, "noise")
            low = step.step(self.order - 1, 1 / 3)
            high = step.step(self.order)
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
            if self.eta and (
                bool(kept.any()) or not self.together
            ):  # in any batch, one draw a trial
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
        """The ancestral step, which goes no further down than the ``goal``.

        What it reaches there is not renoised.
        """
        if self.eta == 0:
            return after, torch.zeros_like(after.sigma)
        down, _ = ancestral(here, after, self.eta)
        least = (after.alpha * torch.exp(-goal).to(after.alpha)).minimum(after.sigma)
        down = replace(down, sigma=down.sigma.maximum(least))
        return down, (after.sigma**2 - down.sigma**2).sqrt()


def _at(schedule: Schedule, lam: Tensor, like: Latents) -> NoiseLevel:
    """The level of each sample, in a dtype that does not change that of the latents."""
    level = schedule(schedule.when(lam))
    dtype = torch.promote_types(like.dtype, torch.float32)
    return NoiseLevel(*(value.to(dtype) for value in values(level)))
