"""Times that are shifted towards noise, as larger pictures need it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.spacing._rules import ramp, require_steps, require_table, with_zero
from safelight.types.diffusion import Schedule, Spacing

Time = TypeVar("Time", float, Tensor)


@dataclass(frozen=True)
class Shifted(Spacing):
    """Uniform, shifted towards noise: t' = s·t / (1 + (s - 1)·t) (arXiv 2403.03206, eq. 23).

    ``begin`` is a time after the shift. Raises BadInput if ``shift`` is not positive.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        require(
            0 < self.shift < math.inf,
            "shift must be above 0",
            self.shift,
            "1 is uniform, 3 is usual",
        )

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        falling = ramp(steps, begin)
        return _shift(self.shift, _unshift(self.shift, begin) * falling)


@dataclass(frozen=True)
class ShiftedByTokens(Spacing):
    """Uniform, shifted by the size of the picture as in FLUX.1.

    shift = exp(mu), and mu is linear in the tokens. ``tokens`` is the number of patches that the
    transformer sees, height · width / 256 in pixels for FLUX.1; 0 stands for those of the picture
    that is made, or 4096 where none is. Raises BadInput if they are negative.
    """

    tokens: int = 0
    low_tokens: int = 256
    low_mu: float = 0.5
    high_tokens: int = 4096
    high_mu: float = 1.15

    def __post_init__(self) -> None:
        _require_tokens(self.tokens)
        ends = (self.low_tokens, self.high_tokens)
        require(
            0 < ends[0] < ends[1],
            "low_tokens must be below high_tokens",
            ends,
            "256 and 4096 are those of FLUX.1",
        )

    def for_tokens(self, tokens: int) -> Spacing:
        """This spacing for so many tokens, unless it has a number of its own."""
        return self if self.tokens else replace(self, tokens=tokens)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        slope = (self.high_mu - self.low_mu) / (self.high_tokens - self.low_tokens)
        mu = self.low_mu + slope * ((self.tokens or 4096) - self.low_tokens)
        return Shifted(math.exp(mu))(steps, schedule, begin)


@dataclass(frozen=True)
class ShiftedByTokensAndSteps(Spacing):
    """Uniform, shifted as in FLUX.2: more for more tokens, less for more steps.

    shift = exp(mu), where mu lies on a line through what was fitted at 10 and at 200 steps, each
    linear in the tokens; beyond 4300 tokens that of 200 steps applies to any number
    (black-forest-labs/flux2). ``tokens`` as in ``ShiftedByTokens``.
    """

    tokens: int = 0

    def __post_init__(self) -> None:
        _require_tokens(self.tokens)

    def for_tokens(self, tokens: int) -> Spacing:
        """This spacing for so many tokens, unless it has a number of its own."""
        return self if self.tokens else replace(self, tokens=tokens)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        tokens = self.tokens or 4096
        at_10_steps = 8.73809524e-05 * tokens + 1.89833333
        at_200_steps = 0.00016927 * tokens + 0.45666666
        mu = at_200_steps
        if tokens <= 4300:
            mu = at_200_steps + (at_10_steps - at_200_steps) * (200 - steps) / 190
        return Shifted(math.exp(mu))(steps, schedule, begin)


@dataclass(frozen=True)
class ShiftedTwice(Spacing):
    """Shifted as in the reference of SD3 and SD3.5, which shifts twice.

    Its training table is shifted, and so are the steps between its ends: they are even between 1
    and the shifted 1 / ``table``, are shifted, and a last one goes to 0. Pictures of the reference
    are made so; it is not the same as ``Shifted``. Raises BadInput unless shift is positive and
    table at least 2.
    """

    shift: float = 3.0
    table: int = 1000

    def __post_init__(self) -> None:
        require(0 < self.shift < math.inf, "shift must be above 0", self.shift, "3 is that of SD3")
        require_table(self.table)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        require_steps(steps, begin)
        top, bottom = _unshift(self.shift, begin), _shift(self.shift, 1 / self.table)
        require(
            top > bottom, "begin must be above the last time of the table", begin, "begin earlier"
        )
        even = torch.linspace(top, bottom, steps, dtype=torch.float64)
        return with_zero(_shift(self.shift, even))


def _shift(shift: float, t: Time) -> Time:
    return shift * t / (1 + (shift - 1) * t)


def _unshift(shift: float, t: float) -> float:
    return t / (shift - (shift - 1) * t)


def _require_tokens(tokens: int) -> None:
    require(
        0 <= tokens <= 2**24,
        "tokens must be 0 or more",
        tokens,
        "4096 is 1024 x 1024 pixels, 0 is the picture's",
    )
