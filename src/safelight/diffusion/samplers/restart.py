"""Restart: noise is added back, and an interval is sampled again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.samplers.heun import Heun
from safelight.diffusion.trajectory import renoise, transitions
from safelight.types.diffusion import Denoise, NoiseSource, Run, Sampler, SamplerInfo, Schedule
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Restart(Sampler):
    """Heun with ``count`` restarts from sigma / alpha = ``low`` up to ``high`` (arXiv 2306.14878).

    Each restart comes down again in ``steps`` steps, even in sigma^(1/7). Restarts happen at the
    first time whose ratio is not above ``low``. If the times do not pass from above ``high`` to
    there, this is Heun. Raises BadInput unless 0 < low < high, and count and steps are at least 1.
    """

    info: ClassVar = SamplerInfo(
        "Restart", "2 between restarts", "2", "arXiv 2306.14878", "always", renoises=True
    )

    low: float = 0.1
    high: float = 0.3
    count: int = 2
    steps: int = 3

    def __post_init__(self) -> None:
        bounds = (self.low, self.high)
        require(
            0 < bounds[0] < bounds[1] < math.inf,
            "low must be above 0 and below high",
            bounds,
            "0.1 and 0.3 do",
        )
        require(1 <= self.count <= 1000, "count must be at least 1", self.count, "2 is usual")
        require(1 <= self.steps <= 1000, "steps must be at least 1", self.steps, "3 is usual")

    def __call__(
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run:
        walked = list(transitions(times, schedule))
        times = times.to("cpu", torch.float64)
        top = schedule.when(-torch.tensor(self.high, dtype=torch.float64).log())
        turn = next(
            (
                transition.index + 1
                for transition in walked
                if 0 < transition.after.sigma <= self.low * transition.after.alpha
            ),
            0,
        )
        again: list[Tensor] = []
        if turn and times[0] > top:
            bottom = float((walked[turn - 1].after.sigma / walked[turn - 1].after.alpha) ** (1 / 7))
            ramp = torch.linspace(self.high ** (1 / 7), bottom, self.steps + 1, dtype=torch.float64)
            down = torch.cat([schedule.when(-7 * ramp[:-1].log()), times[turn : turn + 1]])
            again = [down] * self.count
        else:
            turn = len(walked)
        index, total = 0, len(walked) + self.steps * len(again)
        for number, part in enumerate([times[: turn + 1], *again, times[turn:]]):
            if 0 < number <= len(again):
                level = walked[turn - 1].after
                noisy = renoise(
                    noisy,
                    level,
                    schedule(part[0]),
                    noise(noisy.shape, (float(part[0]), float(part[-1]))),
                )
            after = torch.cat([part, times[turn + 1 :]]) if part is not times else part
            for step in Heun()(denoise, noisy, part, schedule, noise):
                noisy = step.noisy
                yield replace(step, index=index, total=total, left=after[step.index + 1 :])
                index += 1
