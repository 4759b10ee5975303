"""Noise schedules: t in [0, 1] → how much is clean and how much noise, and the timestep.

Everything is computed in float32, or in float64 when t is, elementwise and of the shape of t. The
variance-preserving schedules have an infinite ``d_sigma`` at t = 0, where sigma grows like a square
root.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.diffusion.checks import require
from safelight.types.diffusion import NoiseLevel


@dataclass(frozen=True)
class Linear:
    """The straight path of flow matching (arXiv 2209.03003, 2403.03206): alpha = 1 - t, sigma = t.

    The timestep is t · ``time_scale``. Raises BadInput if that is not positive.
    """

    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        _require_scale(self.time_scale)

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = _fine(t)
        one = torch.ones_like(t)
        return NoiseLevel(time=t * self.time_scale, alpha=1 - t, sigma=t, d_alpha=-one, d_sigma=one)

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR: sigma / (alpha + sigma)."""
        return torch.sigmoid(-_fine(half_logsnr))


@dataclass(frozen=True)
class ScaledLinear:
    """The table of latent diffusion and Stable Diffusion (arXiv 2112.10752): sqrt(beta) is linear
    over the steps.

    Entry k of the table lies at t = (k + 1) / steps; between entries log(alpha²) is linear in t,
    from 0 at t = 0. The timestep is k: t · steps - 1, never below 0. With ``zero_terminal`` the
    table is rescaled to end in pure noise (arXiv 2305.08891, algorithm 1). Raises BadInput unless 0
    < beta_start <= beta_end < 1 and steps >= 1.
    """

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal: bool = False

    def __post_init__(self) -> None:
        _require_betas(self.steps, self.beta_start, self.beta_end)

    def __call__(self, t: Tensor) -> NoiseLevel:
        return self._table.level(t)

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR; 1 if it lies beyond the end of the table."""
        return self._table.when(half_logsnr)

    @cached_property
    def _table(self) -> _LogAlphaTable:
        roots = torch.linspace(
            self.beta_start**0.5, self.beta_end**0.5, self.steps, dtype=torch.float64, device="cpu"
        )
        return _LogAlphaTable(torch.log1p(-roots.square()), self.zero_terminal)


@dataclass(frozen=True)
class LinearBeta:
    """The table of DDPM (arXiv 2006.11239, section 4) and DiT: beta is linear over the steps.

    Interpolation, timestep, rescaling and errors are those of ``ScaledLinear``.
    """

    steps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    zero_terminal: bool = False

    def __post_init__(self) -> None:
        _require_betas(self.steps, self.beta_start, self.beta_end)

    @cached_property
    def _table(self) -> _LogAlphaTable:
        betas = torch.linspace(
            self.beta_start, self.beta_end, self.steps, dtype=torch.float64, device="cpu"
        )
        return _LogAlphaTable(torch.log1p(-betas), self.zero_terminal)

    def __call__(self, t: Tensor) -> NoiseLevel:
        return self._table.level(t)

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR; 1 if it lies beyond the end of the table."""
        return self._table.when(half_logsnr)


@dataclass(frozen=True)
class Table:
    """Any published table of alpha², falling: ``alphas_cumprod`` of DDPM and Stable Diffusion.

    Interpolation, timestep and rescaling are those of ``ScaledLinear``. Raises BadInput unless the
    entries fall strictly within 0 and 1.
    """

    alphas_cumprod: tuple[float, ...] = (0.9, 0.6, 0.3, 0.1)
    zero_terminal: bool = False

    def __post_init__(self) -> None:
        falls = all(above > below for above, below in pairwise((1.0, *self.alphas_cumprod, 0.0)))
        shown = (
            self.alphas_cumprod
            if len(self.alphas_cumprod) < 9
            else f"{len(self.alphas_cumprod)} entries"
        )
        require(
            falls and bool(self.alphas_cumprod),
            "alphas_cumprod must fall within 1 and 0",
            shown,
            "sort them",
        )

    def __call__(self, t: Tensor) -> NoiseLevel:
        return self._table.level(t)

    @cached_property
    def _table(self) -> _LogAlphaTable:
        entries = torch.tensor((1.0, *self.alphas_cumprod), dtype=torch.float64, device="cpu").log()
        return _LogAlphaTable(entries.diff(), self.zero_terminal)

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR; 1 if it lies beyond the end of the table."""
        return self._table.when(half_logsnr)


@dataclass(frozen=True)
class Cosine:
    """Improved DDPM (arXiv 2102.09672, eq. 17): alpha = cos(x) / cos(x(0)), x = (t + offset) / (1 +
    offset) · pi / 2.

    It ends in pure noise, alpha(1) = 0. The timestep is t · ``time_scale``. Raises BadInput if
    that is not positive or ``offset`` is negative.
    """

    offset: float = 0.008
    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        _require_scale(self.time_scale)
        require(
            0 <= self.offset < math.inf, "offset must be 0 or more", self.offset, "0.008 is usual"
        )

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = _fine(t)
        pace = math.pi / 2 / (1 + self.offset)
        start = math.cos(pace * self.offset)
        # Written from the nearer end, so that nothing cancels: cos(x) as a sine from t = 1, and
        # cos²(a) - cos²(b) = sin(b - a) · sin(b + a) from t = 0.
        alpha = torch.sin(pace * (1 - t)) / start
        sigma = (torch.sin(pace * t) * torch.sin(pace * (t + 2 * self.offset))).sqrt() / start
        d_alpha = -pace * torch.cos(pace * (1 - t)) / start
        return NoiseLevel(
            t * self.time_scale, alpha, sigma, d_alpha, d_sigma=-alpha * d_alpha / sigma
        )

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR."""
        twice = 2 * _fine(half_logsnr)
        pace = math.pi / 2 / (1 + self.offset)
        start = pace * self.offset
        cosine = torch.sigmoid(twice).sqrt() * math.cos(start)
        sine = (math.sin(start) ** 2 + torch.sigmoid(-twice) * math.cos(start) ** 2).sqrt()
        return (torch.atan2(sine, cosine) / pace - self.offset).clamp(0, 1)


@dataclass(frozen=True)
class Sigmoid:
    """A sigmoid between two ends (arXiv 2212.11972): alpha² = (s(end) - s(x)) / (s(end) -
    s(start)), with the logistic function s of x / ``temperature`` and x = start + t · (end -
    start).

    It ends in pure noise. The timestep is t · ``time_scale``. Raises BadInput unless start < end
    and temperature and time_scale are positive.
    """

    start: float = -3.0
    end: float = 3.0
    temperature: float = 1.0
    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        _require_scale(self.time_scale)
        require(
            0 < self.temperature < math.inf,
            "temperature must be above 0",
            self.temperature,
            "1 is usual",
        )
        ends = (self.start, self.end)
        require(
            -math.inf < ends[0] < ends[1] < math.inf,
            "start must be below end",
            ends,
            "-3 to 3 is usual",
        )

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = _fine(t)
        low, pace = self.start / self.temperature, (self.end - self.start) / self.temperature
        # s(a) - s(b) = sinh((a - b) / 2) / (2 cosh(a / 2) cosh(b / 2)): from the nearer end nothing
        # cancels.
        here = torch.cosh((low + pace * t) / 2)
        whole = math.sinh(pace / 2)
        alpha = (torch.sinh(pace * (1 - t) / 2) * math.cosh(low / 2) / (whole * here)).sqrt()
        sigma = (torch.sinh(pace * t / 2) * math.cosh((low + pace) / 2) / (whole * here)).sqrt()
        fall = pace * math.cosh(low / 2) * math.cosh((low + pace) / 2) / (2 * whole * here.square())
        return NoiseLevel(
            t * self.time_scale,
            alpha,
            sigma,
            d_alpha=-fall / (2 * alpha),
            d_sigma=fall / (2 * sigma),
        )

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR."""
        # sigma² / alpha² = sinh(u) cosh(b) / (sinh(w - u) cosh(a)) at u = pace · t / 2, solved for
        # tanh(u).
        ratio = torch.exp(-2 * _fine(half_logsnr))
        low, pace = self.start / self.temperature, (self.end - self.start) / self.temperature
        odds = ratio * (math.cosh(low / 2) / math.cosh((low + pace) / 2))
        whole = math.sinh(pace / 2) / (1 / odds + math.cosh(pace / 2))
        return (2 * torch.atanh(whole) / pace).clamp(0, 1)


@dataclass(frozen=True)
class EDM:
    """Variance exploding as EDM has it (arXiv 2206.00364): alpha = 1, sigma = sigma_max · t^rho.

    Even steps of t are then even in sigma^(1 / rho), as in its eq. 5. The timestep is log(sigma)
    / 4. Raises BadInput unless sigma_max and rho are positive.
    """

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        require(
            0 < self.sigma_max < math.inf,
            "sigma_max must be above 0",
            self.sigma_max,
            "80 is usual",
        )
        require(0 < self.rho < math.inf, "rho must be above 0", self.rho, "7 is usual")

    def __call__(self, t: Tensor) -> NoiseLevel:
        t = _fine(t)
        sigma, one = self.sigma_max * t**self.rho, torch.ones_like(t)
        slope = self.sigma_max * self.rho * t ** (self.rho - 1)
        return NoiseLevel(sigma.log() / 4, one, sigma, d_alpha=torch.zeros_like(t), d_sigma=slope)

    def when(self, half_logsnr: Tensor) -> Tensor:
        """The t of that half log-SNR; 1 if it lies beyond sigma_max."""
        return torch.exp((-_fine(half_logsnr) - math.log(self.sigma_max)) / self.rho).clamp(max=1)


class _LogAlphaTable:
    """log(alpha²) at t = k / steps, falling from 0 by ``rise`` (steps,) in float64, and linear
    between.

    Zero-terminal, alpha is moved and scaled from the first entry on, which stays: there the last
    becomes 0.
    """

    def __init__(self, rise: Tensor, zero_terminal: bool) -> None:
        self.rise, self.steps = rise, len(rise)
        self.nodes = torch.cat([rise.new_zeros(1), rise.cumsum(0)])
        self.first, self.last = (
            float((node / 2).exp()) for node in (self.nodes[1], self.nodes[-1])
        )
        if not zero_terminal:
            self.last = 0.0
        self.stretch = self.first / (self.first - self.last)

    def level(self, t: Tensor) -> NoiseLevel:
        fine = _fine(t)
        t = fine.double()
        nodes, rise = self.nodes.to(t.device), self.rise.to(t.device)
        node = (t * self.steps).long().clamp(0, self.steps - 1)
        log_alpha_bar = nodes[node] + (t * self.steps - node) * rise[node]
        alpha, sigma = (log_alpha_bar / 2).exp(), (-torch.expm1(log_alpha_bar)).sqrt()
        d_alpha = alpha * rise[node] * self.steps / 2
        if self.last > 0:
            moved = node > 0
            alpha = torch.where(moved, ((alpha - self.last) * self.stretch).clamp(min=0), alpha)
            d_alpha = torch.where(moved, d_alpha * self.stretch, d_alpha)
            sigma = torch.where(moved, ((1 - alpha) * (1 + alpha)).sqrt(), sigma)
        alpha = torch.where(
            t >= 1, alpha.where(alpha > 1e-12, 0.0), alpha
        )  # the last entry, rescaled, is exactly 0
        time = (t * self.steps - 1).clamp(min=0)
        values = (time, alpha, sigma, d_alpha, -alpha * d_alpha / sigma)
        return NoiseLevel(*(value.to(fine.dtype) for value in values))

    def when(self, half_logsnr: Tensor) -> Tensor:
        fine = _fine(half_logsnr)
        log_alpha_bar = F.logsigmoid(2 * fine.double())
        if self.last > 0:
            alpha = (log_alpha_bar / 2).exp()
            log_alpha_bar = torch.where(
                alpha < self.first, 2 * (alpha / self.stretch + self.last).log(), log_alpha_bar
            )
        nodes, rise = self.nodes.to(fine.device), self.rise.to(fine.device)
        node = (torch.searchsorted(-nodes, -log_alpha_bar) - 1).clamp(0, self.steps - 1)
        return (
            ((node + (log_alpha_bar - nodes[node]) / rise[node]) / self.steps)
            .clamp(max=1)
            .to(fine.dtype)
        )


def _fine(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _require_scale(time_scale: float) -> None:
    require(0 < time_scale < math.inf, "time_scale must be above 0", time_scale, "1000 is usual")


def _require_betas(steps: int, beta_start: float, beta_end: float) -> None:
    require(steps >= 1, "steps must be at least 1", steps, "1000 is usual")
    betas = (beta_start, beta_end)
    require(
        0 < betas[0] <= betas[1] < 1,
        "betas must rise within 0 and 1",
        betas,
        "0.00085 to 0.012 is usual",
    )
