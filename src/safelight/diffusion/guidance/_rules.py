"""What several rules share: two questions, the step from one answer past another, and where a rule holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


def require_number(name: str, value: float, usual: str) -> None:
    """Raises BadInput unless ``value`` is finite."""
    require(math.isfinite(value), f"{name} must be a number", value, usual)


def require_scale(scale: float) -> None:
    """Raises BadInput unless a scale is finite."""
    require_number("scale", scale, "1 is no guidance, 4 is usual")


def require_ends(low: float, high: float) -> None:
    """Raises BadInput unless the ends of an interval of noise levels are ones."""
    require(
        0 <= low < high <= 1,
        "low and high must rise within 0 to 1",
        (low, high),
        "0 and 0.8 are usual",
    )


def both(condition: Condition, negative: Negative, scale: float) -> tuple[ModelCall, ...]:
    """The condition and the negative; at scale 1, which is no guidance, the condition alone."""
    return (
        (ModelCall(condition),) if scale == 1 else (ModelCall(condition), ModelCall(negative(None)))
    )


def past(toward: Estimate, away: Estimate, scale: float) -> Estimate:
    """From ``away`` ``scale`` times as far as ``toward`` lies: affine, so the same in every space."""
    return Estimate(away.clean + scale * (toward.clean - away.clean), variance=toward.variance)


def within(level: NoiseLevel, low: float, high: float) -> bool:
    """Whether ``low`` <= sigma / (alpha + sigma) <= ``high``, which is t on the linear schedule, for all samples."""
    place = level.sigma / (level.alpha + level.sigma)
    return bool(((place >= low) & (place <= high)).all())


def each(measure: Callable[..., Tensor], *latents: Latents) -> Tensor:
    """A number of each sample, as (b, 1, …): sample by sample, so that its bits do not depend on the batch."""
    numbers = torch.stack([measure(*samples) for samples in zip(*latents, strict=True)])
    return numbers.reshape(-1, *[1] * (latents[0].ndim - 1))


def product(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two samples."""
    return (a * b).sum()


def over(number: Tensor, divisor: Tensor) -> Tensor:
    """``number`` / ``divisor``, where a divisor that is never negative may be zero if the number is."""
    return number / divisor.clamp_min(torch.finfo(divisor.dtype).tiny)


def require_weakened(blocks: Sequence[int], strength: float, low: float, high: float) -> None:
    """Raises BadInput for options of guidance by a weakened network that cannot work."""
    require(
        len(blocks) > 0 and min(blocks) >= 0,
        "blocks must name some, counted from 0",
        blocks,
        "blocks=[1]",
    )
    require_number("strength", strength, "3 is usual, 0 is none")
    require_ends(low, high)


def weakened(
    asked: tuple[ModelCall, ...], also: ModelCall, level: NoiseLevel, low: float, high: float
) -> tuple[ModelCall, ...]:
    """What is ``asked`` and, where anything is and the level is within, ``also``."""
    return (*asked, also) if asked and within(level, low, high) else asked


def beyond(
    rule: Guidance,
    answers: Sequence[Estimate],
    strength: float,
    noisy: Latents,
    level: NoiseLevel,
    low: float,
    high: float,
) -> Estimate:
    """What ``rule`` makes of its answers, pushed away from the one to the question added by ``weakened``."""
    if not answers or not within(level, low, high):
        return rule.combine(answers, noisy, level)
    *inner, weak = answers
    guided = rule.combine(inner, noisy, level)
    return replace(guided, clean=guided.clean + strength * (answers[0].clean - weak.clean))
