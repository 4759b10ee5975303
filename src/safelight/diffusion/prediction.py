"""What a network is asked, and how its answer is read.

Each is affine in the answer, so that guidance may combine in clean space what was read.
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
class Noise:
    """The noise (DDPM, arXiv 2006.11239, eq. 14). It tells nothing of the clean latents where alpha = 0."""

    needs_signal: ClassVar[bool] = True
    learns_variance: ClassVar[bool] = False

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return noise

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        return Estimate((noisy - level.sigma * answer) / level.alpha)


@dataclass(frozen=True)
class Clean:
    """The clean latents themselves."""

    needs_signal: ClassVar[bool] = False
    learns_variance: ClassVar[bool] = False

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return clean

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        return Estimate(answer)


@dataclass(frozen=True)
class V:
    """alpha · noise - sigma · clean (progressive distillation, arXiv 2202.00512, appendix D)."""

    needs_signal: ClassVar[bool] = False
    learns_variance: ClassVar[bool] = False

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return level.alpha * noise - level.sigma * clean

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        return Estimate(
            (level.alpha * noisy - level.sigma * answer) / (level.alpha**2 + level.sigma**2)
        )


@dataclass(frozen=True)
class Flow:
    """The velocity d(noisy)/dt along the path (arXiv 2210.02747): noise - clean where the path is straight."""

    needs_signal: ClassVar[bool] = False
    learns_variance: ClassVar[bool] = False

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return level.d_alpha * clean + level.d_sigma * noise

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        turn = level.alpha * level.d_sigma - level.d_alpha * level.sigma
        return Estimate((level.d_sigma * noisy - level.sigma * answer) / turn)


@dataclass(frozen=True)
class EDM:
    """The preconditioned network of EDM (arXiv 2206.00364, table 1 and eq. 7), for any alpha.

    Shown latents of unit variance, it answers what is missing from the best linear guess at data of ``deviation``, or,
    ``negated``, the opposite, which at a deviation of 1 is v. Raises BadInput if that is not positive.
    """

    deviation: float = 0.5
    negated: bool = False

    needs_signal: ClassVar[bool] = False
    learns_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(
            0 < self.deviation < math.inf,
            "deviation must be above 0",
            self.deviation,
            "0.5 is that of EDM",
        )

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy / self._spread(level)

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        # (clean - c_skip · noisy) / c_out, multiplied out: nothing is divided by a sigma that may be 0.
        spread = self._spread(level)
        return (
            self._sign
            * (level.sigma / self.deviation * clean - level.alpha * self.deviation * noise)
            / spread
        )

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        spread = self._spread(level)
        guess = level.alpha * (self.deviation / spread) ** 2 * noisy
        return Estimate(guess + self._sign * level.sigma * self.deviation / spread * answer)

    @property
    def _sign(self) -> float:
        return -1.0 if self.negated else 1.0

    def _spread(self, level: NoiseLevel) -> Tensor:
        return (level.sigma**2 + (level.alpha * self.deviation) ** 2).sqrt()


@dataclass(frozen=True)
class NoiseAndVariance:
    """The noise, and in as many channels again a learned variance (improved DDPM, arXiv 2102.09672, eq. 15; DiT).

    Those channels are -1 at the lower bound of the posterior and 1 at the upper; nothing keeps them within.
    """

    needs_signal: ClassVar[bool] = True
    learns_variance: ClassVar[bool] = True

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        noise, place = answer.chunk(2, dim=1)
        return Estimate((noisy - level.sigma * noise) / level.alpha, variance=(place + 1) / 2)

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return noise


SPACES: Mapping[str, Prediction] = {"clean": Clean(), "noise": Noise(), "v": V(), "flow": Flow()}
"""The spaces in which rules of the literature are stated, each by its prediction."""

Space = Literal["clean", "noise", "v", "flow"]


def noise_of(estimate: Estimate, noisy: Latents, level: NoiseLevel) -> Latents:
    """The noise behind ``noisy``: the estimate's own, or what is left when the clean latents are taken out."""
    return (
        (noisy - level.alpha * estimate.clean) / level.sigma
        if estimate.noise is None
        else estimate.noise
    )


def to_space(space: Space, estimate: Estimate, noisy: Latents, level: NoiseLevel) -> Latents:
    """What a network of that space would have answered, had it meant ``estimate``; ``from_space`` undoes it."""
    return SPACES[space].target(estimate.clean, noise_of(estimate, noisy, level), level)


def from_space(
    space: Space, answer: Latents, noisy: Latents, level: NoiseLevel, blind: Latents
) -> Latents:
    """The clean latents of an answer in that space; ``blind`` where it tells nothing of them (noise at alpha = 0)."""
    clean = SPACES[space].to_estimate(answer, noisy, level).clean
    return (
        torch.where(level.alpha.to(clean) > 0, clean, blind)
        if SPACES[space].needs_signal
        else clean
    )
