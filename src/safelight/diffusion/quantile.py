"""Quantiles of the Beta distribution, in double precision, with torch alone."""

import torch
from torch import Tensor


def beta_quantile(probability: Tensor, alpha: float, beta: float) -> Tensor:
    """The x below which the Beta distribution has ``probability``, found by bisection."""
    half = torch.full((), 0.5, dtype=torch.float64)
    whole = _incomplete_beta(half, alpha, beta) + _incomplete_beta(half, beta, alpha)
    low, high = torch.zeros_like(probability), torch.ones_like(probability)
    for _ in range(60):
        x = (low + high) / 2
        below_half = _incomplete_beta(x.clamp(max=0.5), alpha, beta)
        above_half = whole - _incomplete_beta((1 - x).clamp(max=0.5), beta, alpha)
        too_low = torch.where(x <= 0.5, below_half, above_half) < probability * whole
        low, high = torch.where(too_low, x, low), torch.where(too_low, high, x)
    inner = (low + high) / 2
    return torch.where(probability == 0, 0.0, torch.where(probability == 1, 1.0, inner))


def _incomplete_beta(x: Tensor, a: float, b: float) -> Tensor:
    """The incomplete beta function for x <= 1/2, where its power series converges fast.

    DLMF 8.17.7.
    """
    total, term = torch.zeros_like(x), x**a
    for n in range(60):
        total = total + term / (a + n)
        term = term * x * (n + 1 - b) / (n + 1)
    return total
