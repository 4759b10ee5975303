"""Which times a sampler visits: ``steps + 1`` of them in float64, strictly falling and ending in 0.

The first is ``begin``, or as near below it as the spacing visits: make the noisy latents at the level of ``times[0]``.
All raise BadInput for steps outside 1 to 10,000 and for a begin outside (0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.diffusion.quantile import beta_quantile
from safelight.types.diffusion import Schedule, Spacing


@dataclass(frozen=True)
class Uniform:
    """Evenly from ``begin`` to 0: the "trailing" spacing of tables (arXiv 2305.08891, table 2)."""

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return begin * _falling(steps, begin)


@dataclass(frozen=True)
class Leading:
    """Every n-th entry of a training table counted from its clean end (DDIM as Stable Diffusion runs it).

    Entry k lies at t = (k + 1) / ``table``; the first visited is ``offset``. It never visits t = 1. The last step goes
    to 0, or, ``to_first``, to the table's first entry, as the first DDIM of Stable Diffusion did. Raises BadInput if
    the table has too few entries for the steps.
    """

    table: int = 1000
    offset: int = 1
    to_first: bool = False

    def __post_init__(self) -> None:
        require(self.table >= 2, "table must have 2 entries or more", self.table, "1000 is usual")
        require(
            0 <= self.offset < self.table,
            "offset must be an entry of the table",
            self.offset,
            "1 is usual",
        )

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        _require_walk(steps, begin)
        reach = round(self.table * begin)
        stride = reach // steps
        fits = stride > 0 and self.offset + stride * (steps - 1) < reach
        require(
            fits,
            f"leading spacing must find its steps among {reach} entries",
            steps,
            "take fewer, or uniform",
        )
        nodes = self.offset + stride * torch.arange(steps - 1, -1, -1, dtype=torch.float64)
        if self.to_first and self.offset > 0:
            return torch.cat([nodes + 1, nodes.new_ones(1)]) / self.table
        return _to_clean((nodes + 1) / self.table)


@dataclass(frozen=True)
class Picked:
    """Some of the ``among`` even times that a model was distilled at (LCM, arXiv 2310.04378, as diffusers runs it)."""

    among: int = 50

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        reach = int(self.among * begin)
        require(
            1 <= steps <= reach,
            f"picked spacing must find its steps among {reach} times",
            steps,
            "take fewer",
        )
        return _to_clean(
            (reach - (torch.arange(steps).double() * (reach / steps)).floor()) / self.among
        )


@dataclass(frozen=True)
class Linspace:
    """Evenly from ``begin`` to the first entry of a training table, t = 1 / ``table``, then a last step to 0.

    It visits both ends of the table (arXiv 2305.08891, table 2). Raises BadInput if ``table`` is below 2.
    """

    table: int = 1000

    def __post_init__(self) -> None:
        require(self.table >= 2, "table must have 2 entries or more", self.table, "1000 is usual")

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        _require_walk(steps, begin)
        require(
            begin > 1 / self.table,
            f"begin must be above the first entry, {1 / self.table}",
            begin,
            "begin earlier",
        )
        times = torch.linspace(begin, 1 / self.table, steps, dtype=torch.float64)
        return _to_clean(times)


@dataclass(frozen=True)
class Quadratic:
    """Evenly in the root of t, so that most steps are near clean (DDIM, arXiv 2010.02502, appendix D.2)."""

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return begin * _falling(steps, begin) ** 2


@dataclass(frozen=True)
class Beta:
    """Quantiles of a Beta distribution, which dwell at both ends (arXiv 2407.12173): scipy's ``beta.ppf`` of an even
    fall, times ``begin``. Raises BadInput unless both parameters are positive.
    """

    alpha: float = 0.6
    beta: float = 0.6

    def __post_init__(self) -> None:
        both = (self.alpha, self.beta)
        require(
            all(0 < one < 100 for one in both),
            "alpha and beta must be within 0 and 100",
            both,
            "0.6 is usual",
        )

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return begin * beta_quantile(_falling(steps, begin), self.alpha, self.beta)


@dataclass(frozen=True)
class Karras:
    """Evenly in (sigma / alpha)^(1 / rho) (EDM, arXiv 2206.00364, eq. 5), then a last step to 0.

    The ends are ratios sigma / alpha. ``sigma_max`` is never above that of ``begin``, which is its default; where that
    is pure noise, it is taken a thousandth before. ``sigma_min`` is by default that of t = 1/1000. Raises BadInput
    unless 0 < sigma_min < sigma_max and rho > 0.
    """

    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        _require_ratios(self.rho, self.sigma_min, self.sigma_max)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        bottom, top = _ends(steps, schedule, begin, self.sigma_min, self.sigma_max)
        ramp = torch.linspace(
            top ** (1 / self.rho), bottom ** (1 / self.rho), steps, dtype=torch.float64
        )
        return _to_clean(schedule.when(-self.rho * ramp.log()))


@dataclass(frozen=True)
class Polyexponential:
    """log(sigma / alpha) falls as a power ``rho`` of an even ramp (k-diffusion), then a last step to 0.

    The ends are those of ``Karras``, and are refused likewise.
    """

    rho: float = 1.5
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        _require_ratios(self.rho, self.sigma_min, self.sigma_max)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        low, high = _ends(steps, schedule, begin, self.sigma_min, self.sigma_max)
        ramp = torch.linspace(1, 0, steps, dtype=torch.float64) ** self.rho
        return _to_clean(schedule.when(-(ramp * math.log(high / low) + math.log(low))))


@dataclass(frozen=True)
class Exponential:
    """Evenly in half-log-SNR, as DPM-Solver has it (arXiv 2206.00927, section 3.4), then a last step to 0.

    The ends are those of ``Karras``, and are refused likewise.
    """

    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        _require_ratios(1.0, self.sigma_min, self.sigma_max)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return Polyexponential(1.0, self.sigma_min, self.sigma_max)(steps, schedule, begin)


@dataclass(frozen=True)
class AYS:
    """Align Your Steps (arXiv 2404.14507): noise levels tuned for ten steps of a model family, ``sd1``, ``sdxl`` or
    ``svd``; for other counts their logarithm is interpolated, as published.

    Levels above that of ``begin`` are left out and the rest interpolated to the steps. Raises BadInput for another
    ``family``, or if ``begin`` lies below all of its levels.
    """

    family: str = "sd1"

    _RATIOS: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
        "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
        "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
    }

    def __post_init__(self) -> None:
        known = ", ".join(self._RATIOS)
        require(
            self.family in self._RATIOS,
            f"family must be one of {known}",
            self.family,
            "take the nearest",
        )

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        _require_walk(steps, begin)
        levels = torch.tensor(self._RATIOS[self.family], dtype=torch.float64).log()
        top = math.log(min(_ratio(schedule, begin), float(levels[0].exp())))
        require(
            top > float(levels[-1]),
            "begin must lie above the last level of the table",
            begin,
            "begin earlier",
        )
        levels = torch.cat([levels.new_tensor([top]), levels[levels < top - 1e-9]])
        place = torch.linspace(0, len(levels) - 1, steps + 1, dtype=torch.float64)[:-1]
        node = place.long()
        return _to_clean(schedule.when(-torch.lerp(levels[node], levels[node + 1], place - node)))


@dataclass(frozen=True)
class Times:
    """Just these times: as many as the steps and one more.

    Raises BadInput unless they fall strictly from 1 or below to 0 or above, and, when called, unless they are as many
    as asked and do not pass ``begin``.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_fall("times", self.times)
        require(self.times[0] <= 1, "times must be at most 1", self.times, "1 is pure noise")

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        return _given(torch.tensor(self.times, dtype=torch.float64), steps, begin)


@dataclass(frozen=True)
class Sigmas:
    """The times of these ratios sigma / alpha (the sigmas of sampling, where variance explodes), as ``Times``."""

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_fall("sigmas", self.sigmas)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        times = schedule.when(-torch.tensor(self.sigmas, dtype=torch.float64).log())
        require(
            bool((times.diff() < 0).all()),
            "sigmas must lie within the schedule",
            self.sigmas,
            "lower the first",
        )
        return _given(times, steps, begin)


@dataclass(frozen=True)
class Shifted:
    """Uniform, moved towards noise as larger pictures want it: t' = s·t / (1 + (s - 1)·t) (arXiv 2403.03206, eq. 23).

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
        falling = _falling(steps, begin)
        return _shift(self.shift, _unshift(self.shift, begin) * falling)


@dataclass(frozen=True)
class ShiftedByTokens:
    """Uniform, shifted by the size of the picture as FLUX.1 does: shift = exp(mu), and mu is linear in the tokens.

    ``tokens`` is how many patches the transformer sees, height · width / 256 in pixels for FLUX.1; 0: those of the
    picture that is made, 4096 where none is. Raises BadInput if they are negative.
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

    def sized(self, tokens: int) -> Spacing:
        """This spacing for a picture of so many tokens, if it does not name another number itself."""
        return self if self.tokens else replace(self, tokens=tokens)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        slope = (self.high_mu - self.low_mu) / (self.high_tokens - self.low_tokens)
        return Shifted(math.exp(self.low_mu + slope * ((self.tokens or 4096) - self.low_tokens)))(
            steps, schedule, begin
        )


@dataclass(frozen=True)
class ShiftedByTokensAndSteps:
    """Uniform, shifted as FLUX.2 does: shift = exp(mu), and mu rises with the tokens and falls with the steps.

    It lies on a line through what was fitted at 10 and at 200 steps, each linear in the tokens; beyond 4300 tokens that
    at 200 holds for all (black-forest-labs/flux2). ``tokens`` as in ``ShiftedByTokens``.
    """

    tokens: int = 0

    def __post_init__(self) -> None:
        _require_tokens(self.tokens)

    def sized(self, tokens: int) -> Spacing:
        """This spacing for a picture of so many tokens, if it does not name another number itself."""
        return self if self.tokens else replace(self, tokens=tokens)

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        tokens = self.tokens or 4096
        few, many = 8.73809524e-05 * tokens + 1.89833333, 0.00016927 * tokens + 0.45666666
        mu = many if tokens > 4300 else many + (few - many) * (200 - steps) / 190
        return Shifted(math.exp(mu))(steps, schedule, begin)


@dataclass(frozen=True)
class ShiftedTwice:
    """As the reference of SD3 and SD3.5 shifts: its training table is shifted, and the steps between its ends again.

    The steps are even between 1 and the shifted 1 / ``table``, are shifted, and a last one goes to 0. It differs from
    ``Shifted`` by design: pictures of the reference are made so. Raises BadInput unless shift is positive and table
    at least 2.
    """

    shift: float = 3.0
    table: int = 1000

    def __post_init__(self) -> None:
        require(0 < self.shift < math.inf, "shift must be above 0", self.shift, "3 is that of SD3")
        require(self.table >= 2, "table must have 2 entries or more", self.table, "1000 is usual")

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor:
        _require_walk(steps, begin)
        top, bottom = _unshift(self.shift, begin), _shift(self.shift, 1 / self.table)
        require(
            top > bottom, "begin must be above the last time of the table", begin, "begin earlier"
        )
        times = _shift(self.shift, torch.linspace(top, bottom, steps, dtype=torch.float64))
        return _to_clean(times)


Time = TypeVar("Time", float, Tensor)


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


def _to_clean(times: Tensor) -> Tensor:
    return torch.cat([times, times.new_zeros(1)])


def _ends(
    steps: int, schedule: Schedule, begin: float, sigma_min: float | None, sigma_max: float | None
) -> tuple[float, float]:
    """The ratios sigma / alpha between which the steps fall."""
    _require_walk(steps, begin)
    top = _ratio(schedule, begin)
    top = min(top if top < math.inf else _ratio(schedule, 0.999 * begin), sigma_max or math.inf)
    bottom = sigma_min or _ratio(schedule, 0.001)
    require(
        bottom < top,
        f"sigma_min must be below where the steps begin, {top:.4g}",
        bottom,
        "lower it",
    )
    return bottom, top


def _require_ratios(rho: float, sigma_min: float | None, sigma_max: float | None) -> None:
    require(
        0 < rho < math.inf, "rho must be above 0", rho, "7 is usual for Karras, 1 is exponential"
    )
    ends = (sigma_min, sigma_max)
    require(
        all(end is None or 0 < end < math.inf for end in ends),
        "sigmas must be above 0",
        ends,
        "None: the schedule's",
    )


def _require_fall(name: str, given: tuple[float, ...]) -> None:
    require(len(given) > 1, f"{name} must have two ends or more", given, "end them in 0")
    falls = all(above > below for above, below in pairwise((math.inf, *given)))
    require(falls and given[-1] >= 0, f"{name} must fall to 0 or above", given, "sort them")


def _given(times: Tensor, steps: int, begin: float) -> Tensor:
    _require_walk(steps, begin)
    require(
        len(times) == steps + 1,
        f"{len(times)} given levels are {len(times) - 1} steps",
        steps,
        "ask for those",
    )
    require(
        float(times[0]) <= begin,
        f"given levels must not pass begin = {begin}",
        float(times[0]),
        "lower them",
    )
    return times


def _falling(steps: int, begin: float) -> Tensor:
    _require_walk(steps, begin)
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _ratio(schedule: Schedule, t: float) -> float:
    level = schedule(torch.tensor(t, dtype=torch.float64))
    return float(level.sigma / level.alpha)


def _require_walk(steps: int, begin: float) -> None:
    require(1 <= steps <= 10_000, "steps must be from 1 to 10000", steps, "20 to 50 is usual")
    require(
        0 < begin <= 1, "begin must be above 0 and at most 1", begin, "1 starts from pure noise"
    )
