"""Distances between two sets of feature vectors: kernel and Fréchet, in float64, without networks.

Vectors are (n, d) and (m, d). Which network they come from decides what a distance means, so every
figure must name it.
"""

from math import sqrt

import torch
from torch import Tensor

from safelight.errors import BadInput
from safelight.evaluation.intervals import Figure, bootstrap, centred, percentiles, weights

POINTS = 15
"""How many set sizes the extrapolation to infinitely many pictures uses (Chong and Forsyth)."""


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y / d + 1)³ for each pair: the kernel of KID (arXiv 1801.01401, section 4)."""
    kernel: Tensor = (x.double() @ y.double().T / x.shape[1] + 1) ** 3
    return kernel


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of all pairs (Gretton et al. 2012, eq. 3).

    This is KID (Bińkowski et al., arXiv 1801.01401) estimated once from all vectors rather than
    as a mean over subsets. It can be slightly negative. BadInput for fewer than two vectors.
    """
    return _kernel_distance(*_kernels(x, y))


def kernel_distance_subsets(
    x: Tensor, y: Tensor, subsets: int, size: int, generator: torch.Generator
) -> tuple[float, float]:
    """Mean and deviation of the kernel distance over random subsets: KID as usually published."""
    size = min(size, len(x), len(y))
    values = torch.tensor(
        [
            kernel_distance(_draw(x, size, generator), _draw(y, size, generator))
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return float(values.mean()), float(values.std(correction=0))


def kernel_figure(x: Tensor, y: Tensor, repeats: int, generator: torch.Generator) -> Figure:
    """The kernel distance with a bootstrap interval.

    Each picture gets its multiplicity in a bootstrap sample as a weight, and a picture is never
    paired with itself. Two multiplicities have a mean product of 1 - 1/n, for which the sums are
    corrected: the mean over bootstrap samples is then the unbiased estimate again.
    """
    xx, xy, yy = _kernels(x, y)
    n, m = len(x), len(y)
    a, b = weights(n, repeats, generator), weights(m, repeats, generator)
    within_x = ((a @ (xx - xx.diag().diag())) * a).sum(1) / (n - 1) ** 2
    within_y = ((b @ (yy - yy.diag().diag())) * b).sum(1) / (m - 1) ** 2
    between = ((a @ xy) * b).sum(1) / (n * m)
    low, high = percentiles(within_x + within_y - 2 * between)
    return Figure("kernel distance", _kernel_distance(xx, xy, yy), low, high, min(n, m))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½), of means and unbiased covariances of the vectors.

    With centred factors C = AᵀA the trace of the root is the sum of the singular values of A Bᵀ,
    which is small where there are fewer vectors than features. BadInput for fewer than two.
    """
    _demand_two(x, y)
    x, y = x.double(), y.double()
    a, b = _factor(x), _factor(y)
    cross = torch.linalg.svdvals(a @ b.T).sum()
    spread = a.square().sum() + b.square().sum() - 2 * cross
    return float(((x.mean(0) - y.mean(0)).square().sum() + spread).clamp(min=0))


def frechet_figure(x: Tensor, y: Tensor, repeats: int, generator: torch.Generator) -> Figure:
    """The Fréchet distance, with the spread of the bootstrap about it (its bias is the floor's)."""
    value = frechet_distance(x, y)
    drawn = bootstrap(frechet_distance, (x, y), affordable(repeats, x, y), generator)
    low, high = centred(value, drawn)
    count, features = min(len(x), len(y)), x.shape[1]
    biased = f"biased upwards: {count} vectors of {features} features" if count <= features else ""
    return Figure("Fréchet distance", value, max(0.0, low), high, count, note=biased)


def frechet_floor(pool: Tensor, count: int, repeats: int, generator: torch.Generator) -> Figure:
    """The mean Fréchet distance of two disjoint draws of ``count`` from one set of vectors.

    It is what two equal distributions come to at this many pictures: nothing below it means
    anything. A pool too small for two such draws is cut in halves, and the figure says so.
    """
    used = min(count, len(pool) // 2)
    values = []
    for _ in range(repeats):
        order = torch.randperm(len(pool), generator=generator)
        values.append(frechet_distance(pool[order[:used]], pool[order[used : 2 * used]]))
    drawn = torch.tensor(values, dtype=torch.float64)
    low, high = percentiles(drawn)
    note = "" if used == count else f"of {used} pictures, for want of more: too large"
    return Figure("Fréchet floor", float(drawn.mean()), low, high, used, note=note)


def frechet_infinity(x: Tensor, y: Tensor, generator: torch.Generator, repeats: int = 3) -> float:
    """The Fréchet distance extrapolated to infinitely many vectors (arXiv 1911.07023).

    Both sets are cut to N random vectors, for N in 15 even steps of 1/N from all to a third of
    them; a line through the distances over 1/N (least squares) meets 1/N = 0 at the result. It is
    a good approximation for N well above the number of features, and rough below.
    """
    _demand_two(x, y)
    most = min(len(x), len(y))
    least = max(2, most // 3)
    inverse = torch.linspace(1 / most, 1 / least, POINTS, dtype=torch.float64)
    sizes = (1 / inverse).round().long().clamp(least, most).tolist()
    values = [
        sum(
            frechet_distance(_draw(x, size, generator), _draw(y, size, generator))
            for _ in range(repeats)
        )
        / repeats
        for size in sizes
    ]
    return intercept([1 / size for size in sizes], values)


def infinity_figure(x: Tensor, y: Tensor, repeats: int, generator: torch.Generator) -> Figure:
    """FD∞ with the spread of repeated extrapolations of bootstrap samples."""
    value = frechet_infinity(x, y, generator)
    few = max(20, affordable(repeats, x, y) // POINTS)
    drawn = bootstrap(lambda a, b: frechet_infinity(a, b, generator, 1), (x, y), few, generator)
    low, high = centred(value, drawn)
    count, features = min(len(x), len(y)), x.shape[1]
    rough = f"rough: {count} vectors of {features} features" if count <= 2 * features else ""
    return Figure("FD∞", value, low, high, count, note=rough)


def affordable(repeats: int, x: Tensor, y: Tensor) -> int:
    """How many bootstrap samples of a Fréchet distance fit into about a minute: 20 or more."""
    side = min(len(x), len(y), x.shape[1])
    return min(repeats, max(20, 2_000_000_000 // side**3))


def intercept(places: list[float], values: list[float]) -> float:
    """Where the least-squares line through points meets 0."""
    at, value = (torch.tensor(numbers, dtype=torch.float64) for numbers in (places, values))
    line = torch.stack([torch.ones_like(at), at], dim=1)
    return float(torch.linalg.lstsq(line, value[:, None]).solution[0, 0])


def _factor(x: Tensor) -> Tensor:
    """A matrix A with AᵀA the unbiased covariance, of no more rows than vectors or features."""
    centred = (x - x.mean(0)) / sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return centred
    triangle: Tensor = torch.linalg.qr(centred, mode="r")[1]
    return triangle


def _kernels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _demand_two(x, y)
    return polynomial_kernel(x, x), polynomial_kernel(x, y), polynomial_kernel(y, y)


def _kernel_distance(xx: Tensor, xy: Tensor, yy: Tensor) -> float:
    n, m = xy.shape
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def _draw(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return vectors[torch.randperm(len(vectors), generator=generator)[:count]]


def _demand_two(x: Tensor, y: Tensor) -> None:
    if min(len(x), len(y)) < 2:
        raise BadInput(
            f"distances: wanted at least two pictures in each set, got {len(x)} and {len(y)}."
        )
