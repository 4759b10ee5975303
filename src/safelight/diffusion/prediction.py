"""What a network is asked, and how its answer is read.

Each is affine in the answer, so that guidance may combine in clean space what was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from safelight.types import Estimate, Latents, NoiseLevel


@dataclass(frozen=True)
class Noise:
    """The noise (DDPM, arXiv 2006.11239, eq. 14). It tells nothing of the clean latents where alpha = 0."""

    needs_signal: ClassVar[bool] = True

    def show(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return noise

    def read(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        return Estimate((noisy - level.sigma * answer) / level.alpha)


@dataclass(frozen=True)
class Clean:
    """The clean latents themselves."""

    needs_signal: ClassVar[bool] = False

    def show(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return clean

    def read(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        return Estimate(answer)


@dataclass(frozen=True)
class V:
    """alpha · noise - sigma · clean (progressive distillation, arXiv 2202.00512, appendix D)."""

    needs_signal: ClassVar[bool] = False

    def show(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return level.alpha * noise - level.sigma * clean

    def read(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        return Estimate((level.alpha * noisy - level.sigma * answer) / (level.alpha**2 + level.sigma**2))


@dataclass(frozen=True)
class Flow:
    """The velocity d(noisy)/dt along the path (arXiv 2210.02747): noise - clean where the path is straight."""

    needs_signal: ClassVar[bool] = False

    def show(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents:
        return level.d_alpha * clean + level.d_sigma * noise

    def read(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate:
        turn = level.alpha * level.d_sigma - level.d_alpha * level.sigma
        return Estimate((level.d_sigma * noisy - level.sigma * answer) / turn)


def noise_of(estimate: Estimate, noisy: Latents, level: NoiseLevel) -> Latents:
    """The noise behind ``noisy``: the estimate's own, or what is left when the clean latents are taken out."""
    return (noisy - level.alpha * estimate.clean) / level.sigma if estimate.noise is None else estimate.noise
