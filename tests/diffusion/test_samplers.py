"""Samplers against closed forms: measured orders, exact recursions, and the points that they must reach."""

import itertools
import math

import pytest
import torch

from safelight.diffusion.ideal import IdealGaussian, IdealPoints
from safelight.diffusion.noise import SeededNoise
from safelight.diffusion.samplers import DPMpp2M, Euler, Heun
from safelight.diffusion.schedule import Cosine, Linear, ScaledLinear
from safelight.diffusion.spacing import Karras, Leading, Shifted, Uniform
from safelight.errors import BadInput
from safelight.types import Estimate

SCHEDULES = [Linear(), ScaledLinear(), Cosine()]
SAMPLERS = [Euler(), Euler(eta=0.5), Euler(eta=1.0), Heun(), DPMpp2M()]
ORDERS = {Euler(): 1, Heun(): 2, DPMpp2M(): 2}
GAUSSIAN = IdealGaussian(torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64))
POINTS = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1))


def silence(shape, interval=None):
    raise AssertionError("a deterministic sampler draws no noise")


def last(sampler, denoise, noisy, times, schedule, noise=silence):
    return list(sampler(denoise, noisy, times, schedule, noise))[-1].noisy


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("sampler", ORDERS, ids=repr)
def test_order_of_convergence(sampler, schedule):
    """Between half-log-SNR -3, or the end of the table at -2.68, and 3 the error falls as steps ** -order."""
    noisy = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    begin = max(-3.0, float(schedule(torch.ones((), dtype=torch.float64)).half_logsnr))
    errors = []
    for steps in (40, 80, 160):
        times = schedule.when(torch.linspace(begin, 3, steps + 1, dtype=torch.float64))
        exact = GAUSSIAN.transport(noisy, schedule(times[0]), schedule(times[-1]))
        errors.append((last(sampler, GAUSSIAN, noisy, times, schedule) - exact).abs().max())
    for coarse, fine in itertools.pairwise(errors):
        assert float(torch.log2(coarse / fine)) == pytest.approx(ORDERS[sampler], abs=0.15)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_transport_is_the_probability_flow(schedule):
    """Its slope is that of the flow: d_alpha · clean + d_sigma · noise of the posterior mean."""
    noisy = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    t = torch.tensor(0.4005, dtype=torch.float64)  # off the nodes of the table
    level, ahead, behind = schedule(t), schedule(t + 1e-5), schedule(t - 1e-5)
    slope = (GAUSSIAN.transport(noisy, level, ahead) - GAUSSIAN.transport(noisy, level, behind)) / 2e-5
    clean = GAUSSIAN(noisy, level).clean
    velocity = level.d_alpha * clean + level.d_sigma * (noisy - level.alpha * clean) / level.sigma
    torch.testing.assert_close(slope, velocity, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_euler_is_the_exact_discrete_recursion(schedule, eta):
    """On a Gaussian every step is affine. Its gain is read off pairs of runs and squared with the fresh variance.

    The posterior of DDPM (arXiv 2006.11239, eq. 7), written for any schedule, gives mean and variance independently.
    """
    times = Uniform()(10, schedule, begin=0.95)
    starts = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    fresh = torch.full((2, 1), 0.7, dtype=torch.float64)
    found = [step.noisy for step in Euler(eta)(GAUSSIAN, starts, times, schedule, lambda *_: fresh)]
    noisy = starts
    for here, there, reached in zip(times[:-1], times[1:], found, strict=True):
        level, after = schedule(here), schedule(there)
        clean = GAUSSIAN(noisy, level).clean
        ratio = level.alpha / after.alpha
        forward = level.sigma**2 - ratio**2 * after.sigma**2  # variance that the forward process adds on the way
        variance = eta**2 * after.sigma**2 * forward / level.sigma**2
        noise = (noisy - level.alpha * clean) / level.sigma
        noisy = after.alpha * clean + (after.sigma**2 - variance).sqrt() * noise + variance.sqrt() * fresh
        torch.testing.assert_close(reached, noisy, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_ancestral_sampling_is_the_posterior_of_ddpm(schedule):
    """With eta 1 a known clean sample is noised back exactly: mean and variance of q(next | noisy, clean)."""
    clean, noisy = torch.tensor([[0.8]], dtype=torch.float64), torch.tensor([[-1.1]], dtype=torch.float64)
    times = torch.tensor([0.7, 0.4], dtype=torch.float64)
    level, after = schedule(times[0]), schedule(times[1])
    ratio = level.alpha / after.alpha
    forward = level.sigma**2 - ratio**2 * after.sigma**2
    mean = (ratio * after.sigma**2 * noisy + after.alpha * forward * clean) / level.sigma**2
    deviation = (after.sigma**2 * forward / level.sigma**2).sqrt()

    def known(noisy, level):
        return Estimate(clean)

    for draw in (0.0, 1.0):
        reached = last(Euler(1.0), known, noisy, times, schedule, lambda *_: torch.full((1, 1), draw))  # noqa: B023
        torch.testing.assert_close(reached, mean + draw * deviation)


def test_variance_of_ancestral_sampling():
    """The variance that ancestral steps leave is that of their recursion, seen in 20,000 samples."""
    schedule, times = Cosine(), Uniform()(8, Cosine())
    variance = torch.ones((), dtype=torch.float64)
    for here, there in itertools.pairwise(times):
        level, after = schedule(here), schedule(there)
        fresh = after.sigma**2 * (1 - (after.sigma * level.alpha / (after.alpha * level.sigma)) ** 2)
        kept = (after.sigma**2 - fresh).sqrt() / level.sigma
        posterior = 0.36 * level.alpha / (0.36 * level.alpha**2 + level.sigma**2)
        variance = ((after.alpha - kept * level.alpha) * posterior + kept) ** 2 * variance + fresh
    reached = last(Euler(1.0), GAUSSIAN, SeededNoise([0])((1, 20_000)), times, schedule, SeededNoise([1]))
    assert float(reached.var()) == pytest.approx(float(variance), rel=0.04)
    assert float(reached.mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("spacing", [Uniform(), Leading(), Karras(), Shifted()], ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_samplers_reach_the_points(sampler, schedule, spacing):
    times = spacing(20, schedule)
    noisy = schedule(times[0]).sigma.float() * SeededNoise(range(8))((8, 2, 3, 3))
    steps = list(sampler(IdealPoints(POINTS), noisy, times, schedule, SeededNoise(range(8))))
    assert [step.index for step in steps] == list(range(20))
    assert {step.total for step in steps} == {20}
    assert all(float(step.level.sigma) == float(schedule(t).sigma) for step, t in zip(steps, times[1:], strict=True))
    assert steps[-1].noisy.dtype == torch.float32
    torch.testing.assert_close(steps[-1].noisy, steps[-1].estimate.clean, rtol=0, atol=1e-6)
    distance = (steps[-1].noisy[:, None] - POINTS).flatten(2).norm(dim=2)
    nearest = distance.min(dim=1)
    assert nearest.values.max() < 0.02
    assert len(nearest.indices.unique()) > 1


@pytest.mark.parametrize("ideal", [IdealPoints(POINTS), IdealGaussian(torch.tensor(0.3), torch.tensor(0.6))])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_seed_is_a_sample_whatever_the_batch(sampler, ideal):
    def samples(seeds):
        noise = SeededNoise(seeds)
        return last(sampler, ideal, noise((len(seeds), 2, 3, 3)), Uniform()(6, Cosine()), Cosine(), noise)

    whole = samples(range(8))
    assert len({sample.sum().item() for sample in whole}) > 1
    assert torch.equal(whole, torch.cat([samples(range(3)), samples(range(3, 8))]))
    assert torch.equal(whole, torch.cat([samples([seed]) for seed in range(8)]))


@pytest.mark.parametrize(("sampler", "calls"), [(Euler(), 6), (Heun(), 11), (DPMpp2M(), 6)], ids=repr)
def test_passes_a_run(sampler, calls):
    heard = []

    def denoise(noisy, level):
        heard.append(float(level.sigma))
        return Estimate(torch.zeros_like(noisy))

    last(sampler, denoise, torch.ones(1, 1), Uniform()(6, Linear()), Linear())
    assert len(heard) == calls
    assert min(heard) > 0


@pytest.mark.parametrize("sampler", [Euler(), Heun()], ids=repr)
def test_noise_that_an_estimate_brings_is_used(sampler):
    own = torch.full((1, 1), 5.0)
    times = torch.tensor([0.8, 0.3], dtype=torch.float64)
    reached = last(sampler, lambda noisy, level: Estimate(noisy * 0 + 2, noise=own), torch.ones(1, 1), times, Linear())
    torch.testing.assert_close(reached, 0.7 * torch.full((1, 1), 2.0) + 0.3 * own)


def test_interval_of_a_draw_is_that_of_the_step():
    intervals = []

    def noise(shape, interval):
        intervals.append(interval)
        return torch.zeros(shape)

    last(Euler(1.0), GAUSSIAN, torch.zeros(1, 1), torch.tensor([1.0, 0.5, 0.25, 0.0]), Linear(), noise)
    assert intervals == [(1.0, 0.5), (0.5, 0.25)]


def test_ideal_points_is_the_posterior_mean():
    points = torch.tensor([[[0.0, 1.0]], [[2.0, -1.0]]], dtype=torch.float64)
    noisy = torch.tensor([[[0.5, 0.1]], [[-1.0, 2.0]]], dtype=torch.float64)
    level = Linear()(torch.tensor([0.4, 0.7], dtype=torch.float64)[:, None, None])
    for row, alpha, sigma, clean in zip(
        noisy, level.alpha, level.sigma, IdealPoints(points)(noisy, level).clean, strict=True
    ):
        densities = [math.exp(-float(((row - alpha * p) ** 2).sum() / (2 * sigma**2))) for p in points]
        wanted = sum(d * p for d, p in zip(densities, points, strict=True)) / sum(densities)
        torch.testing.assert_close(clean, wanted)
    single = IdealPoints(points)(noisy[:1], Linear()(torch.tensor(0.4, dtype=torch.float64))).clean
    torch.testing.assert_close(single, IdealPoints(points)(noisy, level).clean[:1])


def test_ideal_gaussian_is_the_limit_of_many_points():
    grid = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    noisy, level = torch.tensor([[-1.0], [0.4], [2.0]], dtype=torch.float64), Cosine()(torch.tensor(0.5))
    many = IdealPoints(0.3 + 0.6 * grid[:, None])(noisy, level).clean
    torch.testing.assert_close(many, GAUSSIAN(noisy, level).clean, rtol=0, atol=2e-3)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_refusals(eta):
    with pytest.raises(BadInput, match=f"eta must be from 0 to 1, got {eta}"):
        Euler(eta)
