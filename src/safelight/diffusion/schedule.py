"""Noise schedules: t in [0, 1] → how much is clean, how much is noise, and the time that the network hears.

Everything is computed in float32, or in float64 when t is, elementwise and of the shape of t. The variance-preserving
schedules have an infinite ``d_sigma`` at t = 0, where sigma grows like a square root.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.diffusion.checks import demand
from safelight.types import NoiseLevel


@dataclass(frozen=True)
class Linear:
    """The straight path of flow matching (arXiv 2209.03003, 2403.03206): alpha = 1 - t, sigma = t.

    The network hears t · ``time_scale``. Raises BadInput if that is not positive.
    """

    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        _demand_scale(self.time_scale)

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = _fine(t)
        one = torch.ones_like(t)
        return NoiseLevel(time=t * self.time_scale, alpha=1 - t, sigma=t, d_alpha=-one, d_sigma=one)

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR: sigma / (alpha + sigma)."""
        return torch.sigmoid(-_fine(half_logsnr))


@dataclass(frozen=True)
class ScaledLinear:
    """The table of latent diffusion and Stable Diffusion (arXiv 2112.10752): sqrt(beta) is linear over the steps.

    Entry k of the table lies at t = (k + 1) / steps; between entries log(alpha²) is linear in t, from 0 at t = 0. The
    network hears k: t · steps - 1, never below 0. Raises BadInput unless 0 < beta_start <= beta_end < 1 and
    steps >= 1.
    """

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def __post_init__(self) -> None:
        demand(self.steps >= 1, "steps must be at least 1", self.steps, "1000 is usual")
        betas = (self.beta_start, self.beta_end)
        demand(0 < betas[0] <= betas[1] < 1, "betas must rise within 0 and 1", betas, "0.00085 to 0.012 is usual")

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = _fine(t)
        table, rise = self._table(t)
        node = (t * self.steps).long().clamp(0, self.steps - 1)
        log_alpha_bar = table[node] + (t * self.steps - node) * rise[node]
        alpha = (log_alpha_bar / 2).exp()
        sigma = (-torch.expm1(log_alpha_bar)).sqrt()
        d_alpha = alpha * rise[node] * self.steps / 2
        heard = (t * self.steps - 1).clamp(min=0)
        return NoiseLevel(time=heard, alpha=alpha, sigma=sigma, d_alpha=d_alpha, d_sigma=-alpha * d_alpha / sigma)

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR; 1 if it lies beyond the end of the table."""
        log_alpha_bar = F.logsigmoid(2 * _fine(half_logsnr))
        table, rise = self._table(log_alpha_bar)
        node = (torch.searchsorted(-table, -log_alpha_bar) - 1).clamp(0, self.steps - 1)
        return ((node + (log_alpha_bar - table[node]) / rise[node]) / self.steps).clamp(max=1)

    def _table(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """log(alpha²) at t = k / steps (steps + 1,) and its rise to the next (steps,): summed in float64."""
        roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps, dtype=torch.float64)
        rise = torch.log1p(-roots.square())
        table = torch.cat([rise.new_zeros(1), rise.cumsum(0)])
        return table.to(like), rise.to(like)


@dataclass(frozen=True)
class Cosine:
    """Improved DDPM (arXiv 2102.09672, eq. 17): alpha = cos(x) / cos(x(0)), x = (t + offset) / (1 + offset) · pi / 2.

    It ends in pure noise, alpha(1) = 0. The network hears t · ``time_scale``. Raises BadInput if that is not positive
    or ``offset`` is negative.
    """

    offset: float = 0.008
    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        _demand_scale(self.time_scale)
        demand(0 <= self.offset < math.inf, "offset must be 0 or more", self.offset, "0.008 is usual")

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = _fine(t)
        pace = math.pi / 2 / (1 + self.offset)
        start = math.cos(pace * self.offset)
        # Written from the nearer end, so that nothing cancels: cos(x) as a sine from t = 1, and
        # cos²(a) - cos²(b) = sin(b - a) · sin(b + a) from t = 0.
        alpha = torch.sin(pace * (1 - t)) / start
        sigma = (torch.sin(pace * t) * torch.sin(pace * (t + 2 * self.offset))).sqrt() / start
        d_alpha = -pace * torch.cos(pace * (1 - t)) / start
        return NoiseLevel(t * self.time_scale, alpha, sigma, d_alpha, d_sigma=-alpha * d_alpha / sigma)

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR."""
        twice = 2 * _fine(half_logsnr)
        pace = math.pi / 2 / (1 + self.offset)
        start = pace * self.offset
        cosine = torch.sigmoid(twice).sqrt() * math.cos(start)
        sine = (math.sin(start) ** 2 + torch.sigmoid(-twice) * math.cos(start) ** 2).sqrt()
        return (torch.atan2(sine, cosine) / pace - self.offset).clamp(0, 1)


def _fine(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _demand_scale(time_scale: float) -> None:
    demand(0 < time_scale < math.inf, "time_scale must be above 0", time_scale, "1000 is usual")
