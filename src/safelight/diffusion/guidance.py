"""Guidance: which questions are asked at a level, and how the answers become one estimate.

The rules are affine with weights that sum to one, so they hold in clean space as in any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from safelight.diffusion.checks import demand
from safelight.diffusion.condition import stack
from safelight.diffusion.process import Process
from safelight.errors import BadInput, unknown
from safelight.types import Condition, Denoise, Estimate, Guidance, Latents, Negative, Network, NoiseLevel, Question


@dataclass(frozen=True)
class Unguided:
    """The network's own answer: one pass."""

    kind: ClassVar[str] = "none"

    def begin(self) -> Unguided:
        return self

    def ask(self, condition: Condition, negative: Negative, level: NoiseLevel) -> tuple[Question, ...]:
        return (Question(condition),)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return answers[0]


@dataclass(frozen=True)
class ClassifierFree:
    """Away from the negative, ``scale`` times as far as the condition goes (arXiv 2207.12598, eq. 6 with scale 1 + w).

    Two passes, and one at scale 1, which is no guidance. Raises BadInput if the scale is not a number.
    """

    scale: float = 4.0

    def __post_init__(self) -> None:
        _demand_scale(self.scale)

    def begin(self) -> ClassifierFree:
        return self

    def ask(self, condition: Condition, negative: Negative, level: NoiseLevel) -> tuple[Question, ...]:
        return (Question(condition),) if self.scale == 1 else (Question(condition), Question(negative(None)))

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        if self.scale == 1:
            return answers[0]
        toward, away = answers
        return Estimate(away.clean + self.scale * (toward.clean - away.clean), variance=toward.variance)


@dataclass(frozen=True)
class Interval:
    """Classifier-free guidance at some levels only, and one pass at the others (arXiv 2404.07724).

    Guided where ``low`` <= sigma / (alpha + sigma) <= ``high``, which is t on the linear schedule. Raises BadInput
    unless 0 <= low < high <= 1 and the scale is a number.
    """

    scale: float = 4.0
    low: float = 0.0
    high: float = 0.8

    def __post_init__(self) -> None:
        _demand_scale(self.scale)
        ends = (self.low, self.high)
        demand(0 <= self.low < self.high <= 1, "low and high must rise within 0 to 1", ends, "0 and 0.8 are usual")

    def begin(self) -> Interval:
        return self

    def ask(self, condition: Condition, negative: Negative, level: NoiseLevel) -> tuple[Question, ...]:
        return self._at(level).ask(condition, negative, level)

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate:
        return self._at(level).combine(answers, noisy, level)

    def _at(self, level: NoiseLevel) -> ClassifierFree:
        place = level.sigma / (level.alpha + level.sigma)
        inside = bool(((place >= self.low) & (place <= self.high)).all())
        return ClassifierFree(self.scale if inside else 1.0)


def guided(
    process: Process, networks: Mapping[str, Network], guidance: Guidance, condition: Condition, negative: Negative
) -> Denoise:
    """The waist of one run: every network passes once a level, over all that guidance asks of it in one batch.

    ``condition`` and what ``negative`` makes are as long as the latents, and prepared by the caller. The result
    raises BadInput for a network that is not among ``networks``, or a question that leaves out blocks.
    """
    rule = guidance.begin()

    def denoise(noisy: Latents, level: NoiseLevel) -> Estimate:
        questions = rule.ask(condition, negative, level)
        answers: dict[Question, Estimate] = {}
        for name in dict.fromkeys(question.network for question in questions):
            asked = [question for question in questions if question.network == name]
            answers |= zip(asked, _answers(process, _named(networks, name), asked, noisy, level), strict=True)
        return rule.combine([answers[question] for question in questions], noisy, level)

    return denoise


def _answers(
    process: Process, network: Network, asked: Sequence[Question], noisy: Latents, level: NoiseLevel
) -> list[Estimate]:
    if any(question.skip for question in asked):
        raise BadInput("a question must go through the whole network, got one that skips blocks: wrap the network.")
    count = len(asked)

    def copies(value: Tensor) -> Tensor:
        return torch.cat([value] * count) if value.ndim and len(value) == len(noisy) else value

    def part(value: Tensor | None, index: int) -> Tensor | None:
        return None if value is None else value.chunk(count)[index]

    levels = NoiseLevel(**{name: copies(value) for name, value in vars(level).items()})
    whole = process.denoise(network, copies(noisy), levels, stack([question.condition for question in asked]))
    cleans = whole.clean.chunk(count)
    return [Estimate(clean, part(whole.noise, i), part(whole.variance, i)) for i, clean in enumerate(cleans)]


def _named(networks: Mapping[str, Network], name: str) -> Network:
    if name not in networks:
        raise unknown("network", name, networks)
    return networks[name]


def _demand_scale(scale: float) -> None:
    demand(math.isfinite(scale), "scale must be a number", scale, "1 is no guidance, 4 is usual")
