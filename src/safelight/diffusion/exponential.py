"""Exponential integrators: the linear part of a step is exact, and the estimate a polynomial.

With λ = log(alpha / sigma), the half-log-SNR, the probability flow is d(noisy / sigma) = exp(λ) ·
clean · dλ, or, equivalently, d(noisy / alpha) = -exp(-λ) · noise · dλ (arXiv 2211.01095, eq. 8;
arXiv 2206.00927, eq. 3.4). DPM-Solver, DEIS, UniPC and SA-Solver differ in which of the two they
take, through which points the polynomial goes, and how it is integrated.
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
"""What the polynomial approximates."""

Rule = Literal["exact", "midpoint", "flat", "published-3m"]
"""How the polynomial is integrated.

``midpoint`` takes its value half-way, with the exact weight (DPM-Solver++ 2M, the B2 of UniPC);
``flat`` does so with a flat weight (the B1 of UniPC); ``published-3m`` halves the quadratic term.
"""

History = list[tuple[Tensor, Tensor]]
"""Half-log-SNR and value of the network passes so far, the latest first."""

Nodes = list[tuple[float, Tensor]]
"""Points of the polynomial: places, as shares of the step from 0 to 1, and the values there."""


def value_of(form: Form, estimate: Estimate, noisy: Latents, level: NoiseLevel) -> Latents:
    """The clean latents of an estimate, or its noise."""
    return estimate.clean if form == "clean" else noise_of(estimate, noisy, level)


def advance(
    noisy: Latents,
    level: NoiseLevel,
    after: NoiseLevel,
    nodes: Nodes,
    form: Form = "clean",
    rule: Rule = "exact",
) -> Latents:
    """``noisy`` taken from ``level`` to ``after`` by the polynomial through ``nodes``.

    Both levels must have finite half-log-SNR.
    """
    h = after.half_logsnr - level.half_logsnr
    weights = _weights([place for place, _ in nodes], h if form == "clean" else -h, rule)
    if form == "clean":
        start, gain = after.sigma / level.sigma * noisy, after.alpha
    else:
        start, gain = after.alpha / level.alpha * noisy, after.sigma
    return add_weighted(start, gain, weights, [value for _, value in nodes]).to(noisy.dtype)


def add_weighted(
    total: Tensor, gain: float | Tensor, weights: Sequence[float | Tensor], values: Sequence[Tensor]
) -> Tensor:
    """``total`` and ``gain`` times the weighted sum of ``values``."""
    for weight, value in zip(weights, values, strict=True):
        total = total + gain * weight * value
    return total


def nodes_of(history: History, level: NoiseLevel, after: NoiseLevel, most: int) -> Nodes:
    """The latest ``most`` values of a history as nodes of the step from ``level`` to ``after``.

    Values at pure noise, which have no place in half-log-SNR, are left out.
    """
    begin, end = float(level.half_logsnr), float(after.half_logsnr)
    return [
        ((float(half_logsnr) - begin) / (end - begin), value)
        for half_logsnr, value in history[:most]
        if half_logsnr.isfinite()
    ]


def lagrange(places: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights of the values at ``places`` that integrate s^k to the k-th of the ``moments``."""
    weights = []
    for place in places:
        # The coefficients of the polynomial that is 1 at this place and 0 at the others.
        basis = [1.0]
        for other in places:
            if other != place:
                scaled = [coefficient / (place - other) for coefficient in basis]
                pairs = zip([0.0, *scaled], [*scaled, 0.0], strict=True)
                basis = [higher - other * lower for higher, lower in pairs]
        weights.append(sum(a * b for a, b in zip(basis, moments, strict=True)))
    return weights


def _weights(places: Sequence[float], x: Tensor, rule: Rule) -> Sequence[float | Tensor]:
    """The weights of the nodes in a step of the length ``x``, or of each sample's own length.

    A single length gives plain numbers, which cost less than tensors of one number.
    """
    if x.ndim == 0:
        return _weights_of_step(places, float(x), rule)
    rows = [_weights_of_step(places, length, rule) for length in x.flatten().tolist()]
    return [x.new_tensor(column).reshape(x.shape) for column in zip(*rows, strict=True)]


def _weights_of_step(places: Sequence[float], x: float, rule: Rule) -> list[float]:
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
    """∫ exp(-x (1 - s)) s^k ds from 0 to 1, for k below ``count``.

    Each follows from the next by recursion, or from the one before. Where x is small, downward from
    the last, which a power series gives; else upward from the first, where dividing by x is
    harmless.
    """
    if abs(x) >= 1:
        moments = [-math.expm1(-x) / x]
        for k in range(1, count):
            moments.append((1 - k * moments[-1]) / x)
        return moments
    term = total = 1 / count
    for n in range(1, 20):
        term *= -x / (count + n)
        total += term
    moments = [total]
    for k in range(count - 1, 0, -1):
        moments.insert(0, (1 - x * moments[0]) / k)
    return moments
