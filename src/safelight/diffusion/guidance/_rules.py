"""What several kinds of guidance share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.diffusion import Estimate, Guidance, ModelCall, Negative, Networks, NoiseLevel
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


class AroundGuidance(Guidance):
    """Guidance that changes the estimate of another guidance, ``of``, and makes the same calls."""

    of: Guidance

    @property
    def sets_noise(self) -> bool:
        return self.of.sets_noise

    def begin(self, networks: Networks) -> Guidance:
        return replace(self, of=self.of.begin(networks))  # type: ignore[type-var]

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]:
        return self.of.calls(condition, negative, level)


def require_number(name: str, value: float, usual: str) -> None:
    """Raises BadInput unless ``value`` is finite."""
    require(math.isfinite(value), f"{name} must be a number", value, usual)


def require_scale(scale: float) -> None:
    """Raises BadInput unless a guidance scale is finite."""
    require_number("scale", scale, "1 is no guidance, 4 is usual")


def require_interval(low: float, high: float) -> None:
    """Raises BadInput unless ``low`` and ``high`` bound an interval of noise levels."""
    require(
        0 <= low < high <= 1,
        "low and high must rise within 0 to 1",
        (low, high),
        "0 and 0.8 are usual",
    )


def require_perturbation(blocks: Sequence[int], strength: float, low: float, high: float) -> None:
    """Raises BadInput for options of guidance by a perturbed network that cannot work."""
    require(
        len(blocks) > 0 and min(blocks) >= 0,
        "blocks must name some, counted from 0",
        blocks,
        "blocks=[1]",
    )
    require_number("strength", strength, "3 is usual, 0 is none")
    require_interval(low, high)


def condition_and_negative(
    condition: Condition, negative: Negative, scale: float
) -> tuple[ModelCall, ...]:
    """Calls for the condition and for the negative; at scale 1, no guidance, the first alone."""
    call = ModelCall(condition)
    return (call,) if scale == 1 else (call, ModelCall(negative(None)))


def extrapolate(start: Estimate, end: Estimate, scale: float) -> Estimate:
    """The clean latents ``scale`` times as far from ``start`` as ``end`` is.

    This is affine, so it means the same in the space of any prediction.
    """
    return Estimate(start.clean + scale * (end.clean - start.clean), variance=end.variance)


def in_interval(level: NoiseLevel, low: float, high: float) -> bool:
    """Whether ``low`` <= sigma / (alpha + sigma) <= ``high`` for all samples.

    On the linear schedule this ratio is t.
    """
    ratio = level.sigma / (level.alpha + level.sigma)
    return bool(((ratio >= low) & (ratio <= high)).all())


def per_sample(measure: Callable[..., Tensor], *latents: Latents) -> Tensor:
    """``measure`` of each sample, as (b, 1, …).

    Samples are measured one by one, so that the bits of one do not depend on its batch.
    """
    numbers = torch.stack([measure(*samples) for samples in zip(*latents, strict=True)])
    return numbers.reshape(-1, *[1] * (latents[0].ndim - 1))


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two samples."""
    return (a * b).sum()


def divide(number: Tensor, divisor: Tensor) -> Tensor:
    """``number`` / ``divisor`` for a divisor >= 0, which may be 0 where the number is 0."""
    return number / divisor.clamp_min(torch.finfo(divisor.dtype).tiny)


def with_perturbed_call(
    calls: tuple[ModelCall, ...], perturbed: ModelCall, level: NoiseLevel, low: float, high: float
) -> tuple[ModelCall, ...]:
    """``calls`` and then ``perturbed``, if there are any and the level lies in the interval."""
    return (*calls, perturbed) if calls and in_interval(level, low, high) else calls


def combine_with_perturbed(
    guidance: Guidance,
    answers: Sequence[Estimate],
    strength: float,
    noisy: Latents,
    level: NoiseLevel,
    low: float,
    high: float,
) -> Estimate:
    """The estimate of ``guidance``, moved away from that of the perturbed network.

    ``answers`` are those to the calls of ``with_perturbed_call``.
    """
    if not answers or not in_interval(level, low, high):
        return guidance.combine(answers, noisy, level)
    *others, perturbed = answers
    guided = guidance.combine(others, noisy, level)
    return replace(guided, clean=guided.clean + strength * (answers[0].clean - perturbed.clean))
