"""Multistep DPM-Solver++ and its SDE: a step uses the estimates of earlier steps, at one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from safelight.diffusion.exponential import History, Rule, advance, nodes_of
from safelight.diffusion.stages import Stages
from safelight.diffusion.trajectory import (
    Transition,
    add_noise,
    ancestral,
    first_order_step,
    require_eta,
    sde_step,
    transitions,
)
from safelight.types.diffusion import (
    Denoise,
    Estimate,
    NoiseSource,
    Run,
    Sampler,
    SamplerInfo,
    Schedule,
)
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), of second order; with ``eta`` its SDE.

    It uses the estimate of the step before, by the ``midpoint`` rule as published or by ``heun``,
    the exact integral. Where that step or this one is infinite in half-log-SNR (from pure noise, or
    to clean), it is of first order. Raises BadInput unless eta lies in 0 to 1.
    """

    info: ClassVar = SamplerInfo(
        "DPM-Solver++ 2M", "2", "1", "arXiv 2211.01095", "with eta", brownian=True
    )

    eta: float = 0.0
    rule: Literal["midpoint", "heun"] = "midpoint"

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
        past: History = []
        for transition in transitions(times, schedule):
            estimate = denoise(noisy, transition.level)
            past = [(transition.level.half_logsnr, estimate.clean), *past][:2]
            noisy = _multistep(
                transition,
                noisy,
                estimate,
                past,
                self.eta,
                "midpoint" if self.rule == "midpoint" else "exact",
                noise,
            )
            yield transition.step(noisy, estimate)


@dataclass(frozen=True)
class DPMpp3M(Sampler):
    """DPM-Solver++(3M): a polynomial through three estimates.

    arXiv 2211.01095, appendix B; 3M SDE of k-diffusion. As ``published`` the quadratic term is half
    the integral, and the first steps are of orders 1 and 2, so that a run is of second order.
    Without ``published`` the integral is exact, and the first two steps are single steps of third
    order with three passes each, so that a run is of third order. ``lower_last`` makes the second
    last step one of 2M, as diffusers does below 15 steps. Raises BadInput unless eta lies in 0 to
    1.
    """

    info: ClassVar = SamplerInfo(
        "DPM-Solver++ 3M", "2; 3 with published=false", "1", "arXiv 2211.01095", "with eta", True
    )

    eta: float = 0.0
    published: bool = True
    lower_last: bool = False

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
        past: History = []
        for transition in transitions(times, schedule):
            most = 2 if self.lower_last and transition.index == transition.total - 2 else 3
            estimate = denoise(noisy, transition.level)
            past = [(transition.level.half_logsnr, estimate.clean), *past][:3]
            if not self.published and len(past) < 3:
                down, fresh = ancestral(transition.level, transition.after, self.eta)
                step = Stages(denoise, schedule, noisy, transition.level, estimate, down, "clean")
                noisy = add_noise(step.step(3), fresh, noise, transition.interval)
            else:
                rule: Rule = (
                    "midpoint" if most == 2 else "published-3m" if self.published else "exact"
                )
                noisy = _multistep(transition, noisy, estimate, past[:most], self.eta, rule, noise)
            yield transition.step(noisy, estimate)


def _multistep(
    transition: Transition,
    noisy: Latents,
    estimate: Estimate,
    past: History,
    eta: float,
    rule: Rule,
    noise: NoiseSource,
) -> Latents:
    """A step of the SDE with the rate ``eta``, by the polynomial through the ``past`` estimates."""
    down, fresh = sde_step(transition.level, transition.after, eta)
    if transition.is_infinite:
        noisy = first_order_step(estimate, noisy, transition.level, down)
    else:
        nodes = nodes_of(past, transition.level, transition.after, len(past))
        noisy = advance(noisy, transition.level, down, nodes, "clean", rule)
    return add_noise(noisy, fresh, noise, transition.interval)


@dataclass(frozen=True)
class DPMppSDE(Sampler):
    """DPM-Solver++(2S) of the reverse SDE (k-diffusion).

    Fresh noise is added half-way and at the end of a step, along one Brownian path. Steps from pure
    noise and to clean are those of Euler ancestral. Raises BadInput unless eta lies in 0 to 1.
    """

    info: ClassVar = SamplerInfo(
        "DPM-Solver++ SDE", "1", "2", "arXiv 2211.01095", "always", brownian=True
    )
    kind: ClassVar = "dpmpp-sde"

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
        for transition in transitions(times, schedule):
            estimate = denoise(noisy, transition.level)
            down, fresh = ancestral(transition.level, transition.after, self.eta)
            if transition.is_infinite:
                noisy = first_order_step(estimate, noisy, transition.level, down)
            else:
                time = schedule.when(
                    (transition.level.half_logsnr + transition.after.half_logsnr) / 2
                )
                middle = schedule(time)
                lower, renewed = ancestral(transition.level, middle, self.eta)
                between = advance(noisy, transition.level, lower, [(0.0, estimate.clean)])
                between = add_noise(between, renewed, noise, (transition.interval[0], float(time)))
                ahead = denoise(between, middle).clean
                noisy = advance(noisy, transition.level, down, [(0.0, ahead)])
            yield transition.step(
                noisy := add_noise(noisy, fresh, noise, transition.interval), estimate
            )
