"""Exponential integrators: a step whose linear part is exact and whose denoiser is a polynomial in half-log-SNR.

With λ = log(alpha / sigma) the probability flow is d(noisy / sigma) = exp(λ) · clean · dλ, or, the same,
d(noisy / alpha) = -exp(-λ) · noise · dλ (arXiv 2211.01095, eq. 8; arXiv 2206.00927, eq. 3.4). DPM-Solver, DEIS, UniPC
and SA-Solver differ in which of the two they take, where the polynomial passes through, and how it is integrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from safelight.diffusion.prediction import noise_of
from safelight.types import Estimate, Latents, NoiseLevel

Form = Literal["clean", "noise"]
"""What the polynomial stands for."""

Rule = Literal["exact", "midpoint", "flat", "published-3m"]
"""How it is integrated. ``midpoint`` takes its value half-way, under the exact weight (DPM-Solver++ 2M, the B2 of
UniPC); ``flat`` does so under a flat weight (the B1 of UniPC); ``published-3m`` halves the quadratic term."""

History = list[tuple[Tensor, Tensor]]
"""Half-log-SNR and value of the passes so far, the latest first."""


Nodes = list[tuple[float | Tensor, Tensor]]
"""Places, as shares of a step (0 its beginning, 1 its end), and the values there."""


def value(form: Form, estimate: Estimate, noisy: Latents, level: NoiseLevel) -> Latents:
    return estimate.clean if form == "clean" else noise_of(estimate, noisy, level)


def advance(
    noisy: Latents,
    level: NoiseLevel,
    after: NoiseLevel,
    nodes: Nodes,
    form: Form = "clean",
    rule: Rule = "exact",
) -> Latents:
    """``noisy`` taken from ``level`` to ``after``, both finite in λ, by the polynomial through ``nodes``."""
    h = after.half_logsnr - level.half_logsnr
    x = h if form == "clean" else -h
    weights = _weights([place for place, _ in nodes], x, rule)
    pairs = (after.sigma, level.sigma, after.alpha), (after.alpha, level.alpha, after.sigma)
    there, here, gain = pairs[0] if form == "clean" else pairs[1]
    total = there / here * noisy
    for weight, (_, found) in zip(weights, nodes, strict=True):
        total = total + gain * weight * found
    return total.to(noisy.dtype)


def placed(history: History, level: NoiseLevel, after: NoiseLevel, most: int) -> Nodes:
    """The nodes of a step of at most ``most`` values of the past; one at pure noise lies nowhere and is left out."""
    begin, h = level.half_logsnr, after.half_logsnr - level.half_logsnr
    return [((lam - begin) / h, found) for lam, found in history[:most] if lam.isfinite()]


def lagrange(places: Sequence[float | Tensor], moments: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Weights at ``places`` that give s^k the k-th of the ``moments``."""
    if len(places) == 1:
        return tuple(moments[:1])
    right = torch.stack([torch.as_tensor(moment) for moment in moments], -1)
    row = torch.stack([torch.as_tensor(place).to(right).expand(right.shape[:-1]) for place in places], -1)
    powers = torch.stack([row**k for k in range(len(places))], -2)
    solved: Tensor = torch.linalg.solve(powers, right)
    return solved.unbind(-1)


def _weights(places: Sequence[float | Tensor], x: Tensor, rule: Rule) -> tuple[Tensor, ...]:
    whole = -torch.expm1(-x)
    if len(places) == 1:
        return (whole,)
    if rule in ("midpoint", "flat"):
        weight = whole if rule == "midpoint" else x
        return lagrange(places, [whole, *(weight / 2**k for k in range(1, len(places)))])
    moments = [x * moment for moment in _moments(x, len(places))]
    if rule == "published-3m" and len(places) == 3:
        moments[2] = moments[2] / 2
    return lagrange(places, moments)


def _moments(x: Tensor, count: int) -> list[Tensor]:
    """∫ exp(-x (1 - s)) s^k ds over 0 to 1 for k below ``count``: each follows from the next, or the one before.

    Down from the last, a power series, where x is small; up from the first where dividing by x is harmless.
    """
    last = count - 1
    small = torch.where(x.abs() < 1, x, 0.0)
    series = x.new_tensor([(-1) ** n * math.factorial(last) / math.factorial(last + n + 1) for n in range(20)])
    near = [((small[..., None] ** torch.arange(20, device=x.device)) * series).sum(-1)]
    for k in range(last, 0, -1):
        near.insert(0, (1 - small * near[0]) / k)
    large = torch.where(x.abs() < 1, 1.0, x)
    far = [-torch.expm1(-large) / large]
    for k in range(1, count):
        far.append((1 - k * far[-1]) / large)
    return [torch.where(x.abs() < 1, a, b) for a, b in zip(near, far, strict=True)]
