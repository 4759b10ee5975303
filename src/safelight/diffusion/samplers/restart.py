"""Restart: noise is added back over a stretch, which is then sampled again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.samplers.heun import Heun
from safelight.diffusion.trajectory import About, renoised, walk
from safelight.types.diffusion import Denoise, NoiseSource, Run, Schedule
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Restart:
    """Heun, which goes back up from sigma / alpha = ``low`` to ``high`` for ``count`` times (arXiv 2306.14878).

    The way down again takes ``steps`` steps, even in sigma^(1/7). It begins at the first time of the walk whose ratio
    is not above ``low``; a walk that does not pass from above ``high`` to there is plain Heun. Raises BadInput unless
    0 < low < high, and count and steps are at least 1.
    """

    about: ClassVar = About(
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
        walked = list(walk(times, schedule))
        times = times.to("cpu", torch.float64)
        top = schedule.when(-torch.tensor(self.high, dtype=torch.float64).log())
        turn = next(
            (leg.index + 1 for leg in walked if 0 < leg.after.sigma <= self.low * leg.after.alpha),
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
                noisy = renoised(
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
