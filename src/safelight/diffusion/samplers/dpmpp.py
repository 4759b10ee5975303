"""DPM-Solver++ with steps of the past, and its SDE forms: a step draws on the estimates before it, at one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from safelight.diffusion.exponential import History, Rule, advance, placed
from safelight.diffusion.stages import Passes
from safelight.diffusion.trajectory import (
    About,
    Leg,
    ancestral,
    diffused,
    freshen,
    require_eta,
    straight,
    walk,
)
from safelight.types.diffusion import Denoise, Estimate, NoiseSource, Run, Schedule
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class DPMpp2M:
    """One pass a step, second order: DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2); with ``eta`` its SDE form.

    It leans on the estimate of the step before, by the ``midpoint`` rule as published or by ``heun``, the exact
    integral. Where that step or this one is endless in half-log-SNR (from pure noise, or to clean), it is of first
    order. Raises BadInput unless eta lies in 0 to 1.
    """

    about: ClassVar = About(
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
        for leg in walk(times, schedule):
            estimate = denoise(noisy, leg.level)
            past = [(leg.level.half_logsnr, estimate.clean), *past][:2]
            noisy = _leaning(
                leg,
                noisy,
                estimate,
                past,
                self.eta,
                "midpoint" if self.rule == "midpoint" else "exact",
                noise,
            )
            yield leg.step(noisy, estimate)


@dataclass(frozen=True)
class DPMpp3M:
    """One pass a step: DPM-Solver++ with a polynomial through three estimates (arXiv 2211.01095, appendix B; 3M SDE of
    k-diffusion).

    As ``published`` the quadratic term is half the integral, and the first steps are of orders 1 and 2: the whole is of
    second order. With ``published`` off the integral is exact, and the first two steps are single ones of third order
    with three passes each, which makes the whole third order. ``lower_last`` takes the second last step as 2M
    does, which diffusers does below 15 steps. Raises BadInput unless eta lies in 0 to 1.
    """

    about: ClassVar = About(
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
        for leg in walk(times, schedule):
            most = 2 if self.lower_last and leg.index == leg.total - 2 else 3
            estimate = denoise(noisy, leg.level)
            past = [(leg.level.half_logsnr, estimate.clean), *past][:3]
            if not self.published and len(past) < 3:
                down, fresh = ancestral(leg.level, leg.after, self.eta)
                step = Passes(denoise, schedule, noisy, leg.level, estimate, down, "clean")
                noisy = freshen(step.reach(3), fresh, noise, leg.interval)
            else:
                rule: Rule = (
                    "midpoint" if most == 2 else "published-3m" if self.published else "exact"
                )
                noisy = _leaning(leg, noisy, estimate, past[:most], self.eta, rule, noise)
            yield leg.step(noisy, estimate)


def _leaning(
    leg: Leg,
    noisy: Latents,
    estimate: Estimate,
    past: History,
    eta: float,
    rule: Rule,
    noise: NoiseSource,
) -> Latents:
    """A step by the polynomial through the ``past`` estimates, with fresh noise at the rate ``eta``."""
    down, fresh = diffused(leg.level, leg.after, eta)
    if leg.endless:
        noisy = straight(estimate, noisy, leg.level, down)
    else:
        nodes = placed(past, leg.level, leg.after, len(past))
        noisy = advance(noisy, leg.level, down, nodes, "clean", rule)
    return freshen(noisy, fresh, noise, leg.interval)


@dataclass(frozen=True)
class DPMpp2MSDE:
    """DPM-Solver++(2M) of the reverse SDE (k-diffusion, after arXiv 2211.01095, section 5)."""

    about: ClassVar = About(
        "DPM-Solver++ 2M SDE", "1", "1", "arXiv 2211.01095", "always", brownian=True
    )
    kind: ClassVar = "dpmpp2m-sde"

    eta: float = 1.0
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
        return DPMpp2M(self.eta, self.rule)(denoise, noisy, times, schedule, noise)


@dataclass(frozen=True)
class DPMpp3MSDE:
    """DPM-Solver++(3M) of the reverse SDE (k-diffusion)."""

    about: ClassVar = About(
        "DPM-Solver++ 3M SDE", "1", "1", "arXiv 2211.01095", "always", brownian=True
    )
    kind: ClassVar = "dpmpp3m-sde"

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
        return DPMpp3M(self.eta)(denoise, noisy, times, schedule, noise)


@dataclass(frozen=True)
class DPMppSDE:
    """DPM-Solver++(2S) of the reverse SDE (k-diffusion): fresh noise half-way and at the end, along one Brownian path.

    Steps from pure noise and to clean are ancestral Euler's. Raises BadInput unless eta lies in 0 to 1.
    """

    about: ClassVar = About(
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
        for leg in walk(times, schedule):
            estimate = denoise(noisy, leg.level)
            down, fresh = ancestral(leg.level, leg.after, self.eta)
            if leg.endless:
                noisy = straight(estimate, noisy, leg.level, down)
            else:
                time = schedule.when((leg.level.half_logsnr + leg.after.half_logsnr) / 2)
                middle = schedule(time)
                lower, renewed = ancestral(leg.level, middle, self.eta)
                between = advance(noisy, leg.level, lower, [(0.0, estimate.clean)])
                between = freshen(between, renewed, noise, (leg.interval[0], float(time)))
                ahead = denoise(between, middle).clean
                noisy = advance(noisy, leg.level, down, [(0.0, ahead)])
            yield leg.step(noisy := freshen(noisy, fresh, noise, leg.interval), estimate)
