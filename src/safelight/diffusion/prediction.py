"""What a network predicts, and how the clean latents follow from its answer.

Every prediction is affine in the answer, so that guidance may combine estimates of clean latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from safelight.diffusion.checks import require
from safelight.types.diffusion import Estimate, NoiseLevel, Prediction
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Noise(Prediction):
    """The noise (DDPM, arXiv 2006.11239, eq. 14). Where alpha = 0 no clean latents follow from
    it."""

    needs_signal: ClassVar[bool] = True

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return noise

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        return Estimate((noisy - level.sigma * answer) / level.alpha)


@dataclass(frozen=True)
class Clean(Prediction):
    """The clean latents themselves."""

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return clean

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        return Estimate(answer)


@dataclass(frozen=True)
class V(Prediction):
    """alpha · noise - sigma · clean (progressive distillation, arXiv 2202.00512, appendix D)."""

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return level.alpha * noise - level.sigma * clean

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        total_variance = level.alpha**2 + level.sigma**2
        return Estimate((level.alpha * noisy - level.sigma * answer) / total_variance)


@dataclass(frozen=True)
class Flow(Prediction):
    """The velocity d(noisy)/dt (arXiv 2210.02747): noise - clean where the path is straight."""

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return level.d_alpha * clean + level.d_sigma * noise

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        determinant = level.alpha * level.d_sigma - level.d_alpha * level.sigma
        return Estimate((level.d_sigma * noisy - level.sigma * answer) / determinant)


@dataclass(frozen=True)
class EDM(Prediction):
    """The preconditioned network of EDM (arXiv 2206.00364, table 1 and eq. 7), for any alpha.

    Its input is scaled to unit variance. It predicts what the best linear estimate lacks, for data
    with the standard deviation ``deviation``; or, ``negated``, the opposite, which is v for a
    deviation of 1. Raises BadInput unless the deviation is positive.
    """

    deviation: float = 0.5
    negated: bool = False

    def __post_init__(self) -> None:
        require(
            0 < self.deviation < math.inf,
            "deviation must be above 0",
            self.deviation,
            "0.5 is that of EDM",
        )

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy / self._total_deviation(level)

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        # (clean - c_skip · noisy) / c_out, multiplied out: nothing is divided by sigma, which may
        # be 0.
        data, total = self.deviation, self._total_deviation(level)
        return self._sign * (level.sigma / data * clean - level.alpha * data * noise) / total

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        total = self._total_deviation(level)
        linear_estimate = level.alpha * (self.deviation / total) ** 2 * noisy
        c_out = self._sign * level.sigma * self.deviation / total
        return Estimate(linear_estimate + c_out * answer)

    @property
    def _sign(self) -> float:
        return -1.0 if self.negated else 1.0

    def _total_deviation(self, level: NoiseLevel) -> Tensor:
        return (level.sigma**2 + (level.alpha * self.deviation) ** 2).sqrt()


@dataclass(frozen=True)
class NoiseAndVariance(Prediction):
    """The noise, and a learned variance in as many channels again (DiT).

    From improved DDPM (arXiv 2102.09672, eq. 15): the further channels are -1 at the lower bound of
    the posterior's variance and 1 at the upper bound. They are not clamped.
    """

    needs_signal: ClassVar[bool] = True
    learns_variance: ClassVar[bool] = True

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return noise

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        noise, share = answer.chunk(2, dim=1)
        return Estimate((noisy - level.sigma * noise) / level.alpha, variance=(share + 1) / 2)


SPACES: Mapping[str, Prediction] = {"clean": Clean(), "noise": Noise(), "v": V(), "flow": Flow()}
"""The spaces in which rules of the literature are stated, each with its prediction."""

Space = Literal["clean", "noise", "v", "flow"]


def noise_of(estimate: Estimate, noisy: Latents, level: NoiseLevel) -> Latents:
    """The noise in ``noisy``: that of the estimate, or what the clean latents leave."""
    if estimate.noise is not None:
        return estimate.noise
    return (noisy - level.alpha * estimate.clean) / level.sigma


def to_space(space: Space, estimate: Estimate, noisy: Latents, level: NoiseLevel) -> Latents:
    """The answer in ``space`` that means ``estimate``; ``from_space`` undoes it."""
    return SPACES[space].target(estimate.clean, noise_of(estimate, noisy, level), level)


def from_space(
    space: Space, answer: Latents, noisy: Latents, level: NoiseLevel, fallback: Latents
) -> Latents:
    """The clean latents that follow from an answer in ``space``.

    They are ``fallback`` where none follow (noise at alpha = 0).
    """
    prediction = SPACES[space]
    clean = prediction.to_estimate(answer, noisy, level).clean
    if not prediction.needs_signal:
        return clean
    return torch.where(level.alpha.to(clean) > 0, clean, fallback)
