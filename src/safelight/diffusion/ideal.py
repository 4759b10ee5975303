"""Closed-form denoisers: what a perfect network answers, as an oracle in tests."""

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
    """The posterior mean if the data are ``points`` (n c *space), all equally likely.

    EDM, arXiv 2206.00364, eq. 57.
    """

    points: Float[Tensor, "n c *space"]

    def __call__(self, noisy: Latents, level: NoiseLevel) -> Estimate:
        alpha, sigma = (_with_axis_of_points(value) for value in (level.alpha, level.sigma))
        errors = (noisy[:, None] - alpha * self.points).square() / (2 * sigma**2)
        weights = torch.softmax(-reduce(errors, "b n ... -> b n", "sum"), dim=1)  # (b, n)
        weights = weights.reshape(*weights.shape, *[1] * (noisy.ndim - 1))
        return Estimate((weights * self.points).sum(1))


@dataclass(frozen=True, eq=False)
class IdealGaussian:
    """The posterior mean if every element is normal with ``mean`` and ``deviation``.

    Both broadcast to latents.
    """

    mean: Tensor
    deviation: Tensor

    def __call__(self, noisy: Latents, level: NoiseLevel) -> Estimate:
        gain = level.alpha * self.deviation**2 / self._variance(level)
        return Estimate(self.mean + gain * (noisy - level.alpha * self.mean))

    def transport(self, noisy: Latents, level: NoiseLevel, after: NoiseLevel) -> Latents:
        """``noisy`` taken from ``level`` to ``after`` by the exact probability flow."""
        scale = (self._variance(after) / self._variance(level)).sqrt()
        return after.alpha * self.mean + scale * (noisy - level.alpha * self.mean)

    def _variance(self, level: NoiseLevel) -> Tensor:
        return level.alpha**2 * self.deviation**2 + level.sigma**2


def _with_axis_of_points(value: Tensor) -> Tensor:
    """A level's value (b …) as (b, 1, …); a value without axes broadcasts as it is."""
    return value[:, None] if value.ndim else value
