"""Predictors that the network pass of the next step corrects: UniPC, and SA-Solver for the SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.exponential import Form, History, Nodes, Rule, advance, nodes_of, value_of
from safelight.diffusion.trajectory import (
    Transition,
    first_order_step,
    require_order,
    sde_step,
    transitions,
)
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


@dataclass(frozen=True)
class UniPC(Sampler):
    """The unified predictor-corrector (arXiv 2302.04867, algorithms 5 to 8) of ``order`` 1 to 3.

    Order p converges with p + 1. ``variant`` bh1 and bh2 differ where the paper takes one half for
    the solution of its system: in the predictor of order 2 and the corrector of order 1.
    ``lower_last`` goes down to order 1 at the end, as published. Steps from pure noise and to clean
    are Euler's. The ``noisy`` of a step is the prediction, which the next step corrects. Raises
    BadInput for other orders.
    """

    info: ClassVar = SamplerInfo("UniPC", "2 to 3, order + 1", "1", "arXiv 2302.04867")
    kind: ClassVar = "unipc"

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    form: Form = "clean"
    lower_last: bool = False

    def __post_init__(self) -> None:
        require_order(self.order, 3)

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
        past: History = []
        corrected, order, earlier = noisy, 0, None
        for transition in transitions(times, schedule):
            level, after = transition.level, transition.after
            estimate = denoise(noisy, level)
            value = value_of(self.form, estimate, noisy, level)
            if earlier is not None and not earlier.is_infinite:
                nodes: Nodes = [(1.0, value), *nodes_of(past, earlier.level, level, order)]
                noisy = self._advance(corrected, earlier.level, level, nodes, order == 1)
            past, corrected, earlier = [(level.half_logsnr, value), *past][:3], noisy, transition
            finite = sum(bool(half_logsnr.isfinite()) for half_logsnr, _ in past)
            order = min(
                self.order,
                finite,
                transition.total - transition.index if self.lower_last else self.order,
            )
            if transition.is_infinite:
                noisy = first_order_step(estimate, noisy, level, after)
            else:
                noisy = self._advance(
                    noisy, level, after, nodes_of(past, level, after, order), order == 2
                )
            yield transition.step(noisy, estimate)

    def _advance(
        self,
        noisy: Latents,
        level: NoiseLevel,
        after: NoiseLevel,
        nodes: Nodes,
        half: bool,
    ) -> Latents:
        rule: Rule = "exact"
        if half:
            rule = "midpoint" if self.variant == "bh2" else "flat"
        return advance(noisy, level, after, nodes, self.form, rule)


@dataclass(frozen=True)
class SASolver(Sampler):
    """SA-Solver (arXiv 2309.05019, algorithm 1): a stochastic Adams predictor-corrector.

    Noise is replaced by fresh noise at the rate ``tau``² where sigma / alpha lies between
    ``renew_from`` and ``renew_to``; predictor and corrector use the same. A polynomial through two
    values is integrated with a flat weight, as published. Steps from pure noise and to clean are of
    first order. ``predictor`` and ``corrector`` are orders; 0 leaves the corrector out. Raises
    BadInput for other orders, and unless tau is from 0 to 2.
    """

    info: ClassVar = SamplerInfo("SA-Solver", "1", "1", "arXiv 2309.05019", "always")
    kind: ClassVar = "sa-solver"

    predictor: int = 2
    corrector: int = 2
    tau: float = 1.0
    renew_from: float = 0.05
    renew_to: float = 1.0

    def __post_init__(self) -> None:
        require_order(self.predictor, 4)
        require(
            0 <= self.corrector <= 4,
            "corrector must be an order from 0 to 4",
            self.corrector,
            "2 is usual",
        )
        require(
            0 <= self.tau <= 2,
            "tau must be from 0 to 2",
            self.tau,
            "1 is the SDE of DDPM, 0 its flow",
        )
        bounds = (self.renew_from, self.renew_to)
        require(
            0 <= bounds[0] <= bounds[1],
            "renew_from must be within 0 and renew_to",
            bounds,
            "0.05 to 1 is usual",
        )

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        past: History = []
        step: tuple[Transition, Latents, NoiseLevel, Tensor] | None = None
        for transition in transitions(times, schedule):
            level, after = transition.level, transition.after
            estimate = denoise(noisy, level)
            if step and self.corrector and not step[0].is_infinite:
                earlier, begin, down, added = step
                nodes: Nodes = [
                    (1.0, estimate.clean),
                    *nodes_of(past, earlier.level, level, self.corrector - 1),
                ]
                noisy = _adams(begin, earlier.level, down, nodes) + added
            past = [(level.half_logsnr, estimate.clean), *past][:4]
            renewing = self.renew_from <= level.sigma / level.alpha <= self.renew_to
            down, fresh = sde_step(level, after, self.tau**2 if renewing else 0.0)
            added = (
                fresh * noise(noisy.shape, transition.interval).to(noisy)
                if fresh > 0
                else torch.zeros_like(noisy)
            )
            step = (transition, noisy, down, added)
            if transition.is_infinite:
                noisy = first_order_step(estimate, noisy, level, down) + added
            else:
                nodes = nodes_of(past, level, after, self.predictor)
                noisy = _adams(noisy, level, down, nodes) + added
            yield transition.step(noisy, estimate)


def _adams(noisy: Latents, level: NoiseLevel, down: NoiseLevel, nodes: Nodes) -> Latents:
    return advance(noisy, level, down, nodes, "clean", "flat" if len(nodes) == 2 else "exact")
