"""Exponential integrators: a step whose linear part is exact and whose denoiser is a polynomial in half-log-SNR.

With λ = log(alpha / sigma) the probability flow is d(noisy / sigma) = exp(λ) · clean · dλ, or, the same,
d(noisy / alpha) = -exp(-λ) · noise · dλ (arXiv 2211.01095, eq. 8; arXiv 2206.00927, eq. 3.4). DPM-Solver, DEIS, UniPC
and SA-Solver differ in which of the two they take, where the polynomial passes through, and how it is integrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from safelight.diffusion.prediction import noise_of
from safelight.types.diffusion import Estimate, NoiseLevel
from safelight.types.tensors import Latents

Form = Literal["clean", "noise"]
"""What the polynomial stands for."""

Rule = Literal["exact", "midpoint", "flat", "published-3m"]
"""How it is integrated. ``midpoint`` takes its value half-way, under the exact weight (DPM-Solver++ 2M, the B2 of
UniPC); ``flat`` does so under a flat weight (the B1 of UniPC); ``published-3m`` halves the quadratic term."""

History = list[tuple[Tensor, Tensor]]
"""Half-log-SNR and value of the passes so far, the latest first."""


Nodes = list[tuple[float, Tensor]]
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
    weights = _each([place for place, _ in nodes], x, rule)
    pairs = (after.sigma, level.sigma, after.alpha), (after.alpha, level.alpha, after.sigma)
    there, here, gain = pairs[0] if form == "clean" else pairs[1]
    return mixed(there / here * noisy, gain, weights, [found for _, found in nodes]).to(noisy.dtype)


def mixed(
    total: Tensor, gain: float | Tensor, weights: Sequence[float | Tensor], values: Sequence[Tensor]
) -> Tensor:
    """``total`` and the weighted sum of ``values`` times ``gain``."""
    for weight, one in zip(weights, values, strict=True):
        total = total + gain * weight * one
    return total


def _each(places: Sequence[float], x: Tensor, rule: Rule) -> Sequence[float | Tensor]:
    """The weights of a step, or of each sample's own: plain numbers, which cost less than tensors of one."""
    if x.ndim == 0:
        return _weights(places, float(x), rule)
    rows = [_weights(places, one, rule) for one in x.flatten().tolist()]
    return [x.new_tensor(column).reshape(x.shape) for column in zip(*rows, strict=True)]


def placed(history: History, level: NoiseLevel, after: NoiseLevel, most: int) -> Nodes:
    """The nodes of a step of at most ``most`` values of the past; one at pure noise lies nowhere and is left out."""
    begin, end = float(level.half_logsnr), float(after.half_logsnr)
    return [
        ((float(lam) - begin) / (end - begin), found)
        for lam, found in history[:most]
        if lam.isfinite()
    ]


def lagrange(places: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights at ``places`` that give s^k the k-th of the ``moments``."""
    weights = []
    for place in places:
        basis = [1.0]  # the coefficients of the polynomial that is 1 there and 0 at the others
        for other in places:
            if other != place:
                down, up = [one / (place - other) for one in basis], [0.0]
                basis = [a - other * b for a, b in zip(up + down, [*down, 0.0], strict=True)]
        weights.append(sum(a * b for a, b in zip(basis, moments, strict=True)))
    return weights


def _weights(places: Sequence[float], x: float, rule: Rule) -> list[float]:
    whole = -math.expm1(-x)
    if len(places) == 1:
        return [whole]
    if rule in ("midpoint", "flat"):
        weight = whole if rule == "midpoint" else x
        return lagrange(places, [whole, *(weight / 2**k for k in range(1, len(places)))])
    moments = [x * moment for moment in _moments(x, len(places))]
    if rule == "published-3m" and len(places) == 3:
        moments[2] = moments[2] / 2
    return lagrange(places, moments)


def _moments(x: float, count: int) -> list[float]:
    """∫ exp(-x (1 - s)) s^k ds over 0 to 1 for k below ``count``: each follows from the next, or the one before.

    Down from the last, a power series, where x is small; up from the first where dividing by x is harmless.
    """
    if abs(x) >= 1:
        found = [-math.expm1(-x) / x]
        for k in range(1, count):
            found.append((1 - k * found[-1]) / x)
        return found
    term = total = 1 / count
    for n in range(1, 20):
        term *= -x / (count + n)
        total += term
    found = [total]
    for k in range(count - 1, 0, -1):
        found.insert(0, (1 - x * found[0]) / k)
    return found
