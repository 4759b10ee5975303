"""Closed-form denoisers: what a perfect network would answer, as an oracle for samplers and guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from safelight.types.diffusion import Estimate, NoiseLevel
from safelight.types.tensors import Latents


@dataclass(frozen=True, eq=False)
class IdealPoints:
    """The posterior mean when the data are ``points`` (n c *space), all alike likely (arXiv 2206.00364, eq. 57)."""

    points: Float[Tensor, "n c *space"]

    def __call__(self, noisy: Latents, level: NoiseLevel) -> Estimate:
        alpha, sigma = (_beside_points(value) for value in (level.alpha, level.sigma))
        misfit = reduce(
            (noisy[:, None] - alpha * self.points).square() / (2 * sigma**2),
            "b n ... -> b n",
            "sum",
        )
        weights = torch.softmax(-misfit, dim=1)  # (b, n)
        weights = weights.reshape(*weights.shape, *[1] * (noisy.ndim - 1))
        return Estimate((weights * self.points).sum(1))


@dataclass(frozen=True, eq=False)
class IdealGaussian:
    """The posterior mean when every element is normal with ``mean`` and ``deviation``, broadcastable to latents."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, noisy: Latents, level: NoiseLevel) -> Estimate:
        gain = level.alpha * self.deviation**2 / self._variance(level)
        return Estimate(self.mean + gain * (noisy - level.alpha * self.mean))

    def transport(self, noisy: Latents, level: NoiseLevel, after: NoiseLevel) -> Latents:
        """Where the probability flow takes ``noisy`` from ``level`` to ``after``: every quantile stays itself."""
        spread = (self._variance(after) / self._variance(level)).sqrt()
        return after.alpha * self.mean + spread * (noisy - level.alpha * self.mean)

    def _variance(self, level: NoiseLevel) -> Tensor:
        return level.alpha**2 * self.deviation**2 + level.sigma**2


def _beside_points(value: Tensor) -> Tensor:
    """A level's value (b …) with an axis for the points; one of no axes broadcasts as it is."""
    return value[:, None] if value.ndim else value
