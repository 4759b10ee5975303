"""The quantiles of the Beta distribution, in double precision, of plain tensors."""

import torch
from torch import Tensor


def beta_quantile(share: Tensor, alpha: float, beta: float) -> Tensor:
    """Where the Beta distribution has ``share`` below it, by halving."""

    def below(x: Tensor, a: float, b: float) -> Tensor:
        """The incomplete beta function for x <= 1/2, where its power series is soon done (DLMF 8.17.7)."""
        total, term = torch.zeros_like(x), x**a
        for n in range(60):
            total = total + term / (a + n)
            term = term * x * (n + 1 - b) / (n + 1)
        return total

    half = torch.full((), 0.5, dtype=torch.float64)
    whole = below(half, alpha, beta) + below(half, beta, alpha)
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(60):
        x = (low + high) / 2
        high_side = whole - below((1 - x).clamp(max=0.5), beta, alpha)
        short = (
            torch.where(x <= 0.5, below(x.clamp(max=0.5), alpha, beta), high_side) < share * whole
        )
        low, high = torch.where(short, x, low), torch.where(short, high, x)
    return torch.where(share == 0, 0.0, torch.where(share == 1, 1.0, (low + high) / 2))
