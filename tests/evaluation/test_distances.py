"""Distances and neighbourhoods equal formulas written anew with SciPy and scikit-learn, and what
the programs that people use for them returned for the same vectors."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from sklearn.metrics.pairwise import polynomial_kernel as sklearn_polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from safelight.errors import BadInput
from safelight.evaluation import distances, intervals, neighbourhoods


def vectors():
    """40 and 50 vectors of 12 features, from formulas: the same on every machine."""
    i, j = np.arange(40 * 12).reshape(40, 12), np.arange(50 * 12).reshape(50, 12)
    x = np.sin(i * i * 0.7 + 0.3) + 0.5 * np.cos(i * 0.11)
    y = 1.1 * np.sin(j * j * 0.9 + 1.0) + 0.5 * np.cos(j * 0.11 + 0.4) + 0.1
    return x, y


def random(n, d, seed, scale=1.0, shift=0.0):
    return scale * np.random.default_rng(seed).standard_normal((n, d)) + shift


CASES = [
    pytest.param(*vectors(), id="formulas"),
    pytest.param(random(30, 64, 0), random(25, 64, 1, 1.3, 0.2), id="fewer-vectors-than-features"),
    pytest.param(random(300, 5, 2), random(200, 5, 3, 0.8), id="more-vectors-than-features"),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Returned on 1 December 2026 for ``vectors()``, float64: torch-fidelity 0.4.0 (kernel_mmd with the
# first 40 of each, fid_statistics_to_metric, prc_features_to_metric with neighborhood 3), clean-fid
# 0.1.35 (cleanfid.fid.kernel_distance of all 40, frechet_distance) and prdc 0.2 (compute_prdc, 5).
TORCH_FIDELITY = {
    "kernel": -0.00843118614832905,
    "frechet": 1.2558296821732196,
    "precision": 0.9750000238418579,
    "recall": 0.8399999737739563,
}
CLEAN_FID = {"kernel": -0.008431186148329318, "frechet": 1.2558296821732142}
PRDC = {"precision": 1.0, "recall": 0.92, "density": 1.78, "coverage": 0.98}


@pytest.mark.parametrize("peer", [TORCH_FIDELITY, CLEAN_FID], ids=["torch-fidelity", "clean-fid"])
def test_distances_are_those_of_the_public_programs(peer):
    x, y = map(torch.tensor, vectors())
    assert distances.kernel_distance(x, y[:40]) == pytest.approx(peer["kernel"], abs=1e-9)
    assert distances.frechet_distance(x, y) == pytest.approx(peer["frechet"], abs=1e-9)


def test_neighbourhoods_are_those_of_the_public_programs():
    x, y = map(torch.tensor, vectors())
    found = neighbourhoods.neighbourhoods(y, x)
    for name in ("precision", "recall"):
        value = float(vars(found)[name].mean())
        assert value == pytest.approx(TORCH_FIDELITY[name], abs=1e-6)
    found = neighbourhoods.neighbourhoods(y, x, precision_neighbours=5)
    assert {name: float(value.mean()) for name, value in vars(found).items()} == pytest.approx(PRDC)


@pytest.mark.parametrize(("x", "y"), CASES)
def test_the_kernel_distance_is_the_formula(x, y):
    n, m = len(x), len(y)
    xx, yy, xy = (
        sklearn_polynomial_kernel(a, b, degree=3, gamma=1 / x.shape[1], coef0=1)
        for a, b in ((x, x), (y, y), (x, y))
    )
    wanted = sum(xx[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    wanted += sum(yy[i, j] for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    wanted -= 2 * xy.mean()
    found = distances.kernel_distance(torch.tensor(x), torch.tensor(y))
    assert found == pytest.approx(wanted, abs=1e-6, rel=1e-9)
    subset, deviation = distances.kernel_distance_subsets(
        torch.tensor(x), torch.tensor(x), 3, n, generator()
    )
    whole = distances.kernel_distance(torch.tensor(x), torch.tensor(x))
    assert (subset, deviation) == (pytest.approx(whole), pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize(("x", "y"), CASES)
def test_the_frechet_distance_is_the_formula(x, y):
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(
        a @ b
    ).real  # singular where there are few vectors; the trace holds all the same
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    found = distances.frechet_distance(torch.tensor(x), torch.tensor(y))
    assert found == pytest.approx(wanted, abs=1e-6, rel=1e-5 if len(x) < x.shape[1] else 1e-9)


@pytest.mark.parametrize(("x", "y"), CASES)
def test_neighbourhoods_are_the_formulas(x, y):
    few, many = (NearestNeighbors(n_neighbors=k + 1).fit(y).kneighbors(y)[0][:, -1] for k in (3, 5))
    around = NearestNeighbors(n_neighbors=4).fit(x).kneighbors(x)[0][:, -1]
    between = np.sqrt(((y[:, None] - x[None]) ** 2).sum(-1))
    found = neighbourhoods.neighbourhoods(torch.tensor(y), torch.tensor(x))
    assert found.precision.tolist() == (between <= few[:, None]).any(0).astype(float).tolist()
    assert found.recall.tolist() == (between <= around[None]).any(1).astype(float).tolist()
    assert found.density.numpy() == pytest.approx((between <= many[:, None]).sum(0) / 5)
    assert found.coverage.tolist() == (between.min(1) <= many).astype(float).tolist()


def test_the_interval_of_the_kernel_distance_is_about_it():
    x, y = random(60, 8, 0), random(80, 8, 1, shift=0.3)
    figure = distances.kernel_figure(torch.tensor(x), torch.tensor(y), 4000, generator())
    kernel = distances.kernel_distance(torch.tensor(x), torch.tensor(y))
    assert figure.value == pytest.approx(kernel)
    assert figure.low < kernel < figure.high
    # independent draws spread as the interval says: a 95 % interval is about four deviations wide
    again = [
        distances.kernel_distance(
            torch.tensor(random(60, 8, 100 + s)), torch.tensor(random(80, 8, 500 + s, shift=0.3))
        )
        for s in range(100)
    ]
    assert 2.5 < (figure.high - figure.low) / np.std(again) < 6


def test_the_bootstrap_of_the_kernel_distance_has_no_bias():
    """Vectors far from zero, as features are, whose kernel is large: the mean is the estimate."""
    x, y = torch.tensor(random(12, 8, 0, shift=3.0)), torch.tensor(random(15, 8, 1, shift=3.0))
    drawn = torch.tensor(
        [distances.kernel_figure(x, y, 1, generator(seed)).low for seed in range(3000)]
    )
    kernel = distances.kernel_distance(x, y)
    assert float(drawn.mean()) == pytest.approx(kernel, abs=5 * float(drawn.std()) / 3000**0.5)
    assert 5 * float(drawn.std()) / 3000**0.5 < 0.2 * float(drawn.std())


def test_the_bootstrap_of_the_kernel_distance_is_the_weighted_sum():
    x, y = map(torch.tensor, vectors())
    figure = distances.kernel_figure(x, y, 3, generator(5))
    g = generator(5)
    a, b = intervals.weights(len(x), 3, g), intervals.weights(len(y), 3, g)
    values = []
    for row in range(3):
        total = 0.0
        for w, v in ((a[row], x), (b[row], y)):
            k = (v @ v.T / 12 + 1) ** 3
            n = len(v)
            pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
            total += sum(float(w[i] * w[j] * k[i, j]) for i, j in pairs) / (n - 1) ** 2
        between = a[row] @ ((x @ y.T / 12 + 1) ** 3) @ b[row] / (len(x) * len(y))
        values.append(total - 2 * float(between))
    low, high = np.quantile(values, [0.025, 0.975])
    assert (figure.low, figure.high) == (pytest.approx(low), pytest.approx(high))


def test_fd_infinity_takes_away_the_bias_of_few_pictures():
    """Standard normal sets, one moved by 1 along one of 8 axes: the true distance is 1."""
    x, y = torch.tensor(random(300, 8, 0)), torch.tensor(random(300, 8, 1))
    y[:, 0] += 1
    plain, limit = [], []
    for s in range(6):
        x, y = torch.tensor(random(300, 8, 10 + s)), torch.tensor(random(300, 8, 50 + s))
        y[:, 0] += 1
        plain.append(distances.frechet_distance(x, y) - 1)
        limit.append(distances.frechet_infinity(x, y, generator(s)) - 1)
    assert np.mean(plain) > 0.05
    assert abs(np.mean(limit)) < abs(np.mean(plain)) / 2


def test_the_intercept_is_that_of_linear_regression():
    places, values = [0.1, 0.2, 0.4, 0.5], [3.0, 4.1, 5.7, 7.1]
    assert distances.intercept(places, values) == pytest.approx(
        stats.linregress(places, values).intercept
    )


def test_the_floor_is_what_equal_sets_come_to():
    pool = torch.tensor(random(400, 8, 0))
    floor = distances.frechet_floor(pool, 50, 8, generator())
    apart = [
        distances.frechet_distance(
            torch.tensor(random(50, 8, s)), torch.tensor(random(50, 8, 90 + s))
        )
        for s in range(8)
    ]
    assert floor.value == pytest.approx(np.mean(apart), rel=0.25)
    assert (floor.count, floor.note) == (50, "")
    halves = distances.frechet_floor(pool[:60], 50, 4, generator())
    assert (halves.count, halves.note) == (30, "of 30 pictures, for want of more: too large")


def test_figures_of_few_pictures_say_that_they_are_biased():
    x, y = torch.tensor(random(30, 64, 0)), torch.tensor(random(25, 64, 1))
    figure = distances.frechet_figure(x, y, 20, generator())
    assert figure.note == "biased upwards: 25 vectors of 64 features"
    assert figure.low <= figure.value <= figure.high
    assert distances.infinity_figure(x, y, 20, generator()).note.startswith("rough: 25")
    many = torch.tensor(random(300, 5, 2))
    assert distances.frechet_figure(many, many + 1, 20, generator()).note == ""


def test_too_few_pictures_are_refused():
    one, two = torch.zeros(1, 3), torch.zeros(2, 3)
    with pytest.raises(BadInput, match="at least two pictures in each set, got 1 and 2"):
        distances.kernel_distance(one, two)
    with pytest.raises(BadInput, match="at least two pictures"):
        distances.frechet_distance(two, one)
    with pytest.raises(BadInput, match="more than 3 pictures in each set, got 2"):
        neighbourhoods.radii(two, 3)


@pytest.mark.parametrize(("successes", "count"), [(0, 20), (7, 20), (20, 20), (49, 187)])
def test_wilson_is_the_interval_of_scipy(successes, count):
    found = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert intervals.wilson(successes, count) == pytest.approx((found.low, found.high))


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = torch.tensor(random(200, 1, 4)[:, 0])
    figure = intervals.mean("of draws", values, 4000, generator())
    error = stats.sem(values.numpy())
    assert figure.value == pytest.approx(float(values.mean()))
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert figure.text(digits=2) == f"{figure.value:.2g} ({figure.low:.2g} to {figure.high:.2g})"
    assert intervals.share("right", 3, 4).text(percent=True) == "75 % (30 % to 95 %)"


def test_bootstrap_samples_are_as_large_as_the_set():
    assert intervals.weights(7, 5, generator()).sum(1).tolist() == [7] * 5
    sizes = intervals.bootstrap(
        lambda a, b: len(a) * len(b), [torch.zeros(3), torch.zeros(4)], 2, generator()
    )
    assert sizes.tolist() == [12, 12]
    low, high = intervals.centred(10.0, torch.tensor([1.0, 2.0, 3.0]))
    assert (low, high) == (pytest.approx(10 - 0.95), pytest.approx(10 + 0.95))
    assert math.isclose(low + high, 20)
