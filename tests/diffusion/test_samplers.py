"""Samplers against closed forms: measured orders, exact recursions, and the points that they must
reach."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from safelight.config import Slot
from safelight.diffusion.ideal import IdealGaussian, IdealPoints
from safelight.diffusion.noise import BrownianNoise, SeededNoise
from safelight.diffusion.samplers.aliases import (
    DDIM,
    DPM2Ancestral,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp3MSDE,
    EulerAncestral,
)
from safelight.diffusion.samplers.consistency import LCM, TCD, Consistency
from safelight.diffusion.samplers.ddpm import DDPM
from safelight.diffusion.samplers.dpmpp import DPMpp2M, DPMpp3M, DPMppSDE
from safelight.diffusion.samplers.euler import DDIMInversion, Euler
from safelight.diffusion.samplers.heun import DPM2, Heun
from safelight.diffusion.samplers.multistep import DEIS, LMS, PNDM
from safelight.diffusion.samplers.predictor_corrector import SASolver, UniPC
from safelight.diffusion.samplers.restart import Restart
from safelight.diffusion.samplers.single import Adaptive, Single
from safelight.diffusion.schedule import EDM, Cosine, Linear, LinearBeta, ScaledLinear
from safelight.diffusion.spacing.even import Leading, Uniform
from safelight.diffusion.spacing.shifted import Shifted
from safelight.diffusion.spacing.sigmas import Karras
from safelight.diffusion.trajectory import image_to_image_start
from safelight.errors import BadInput
from safelight.types.diffusion import Estimate

SCHEDULES = [Linear(), ScaledLinear(), Cosine(), EDM()]
DETERMINISTIC = [
    *(
        Euler(),
        DDIM(),
        Heun(),
        Heun("sigma"),
        DPM2(),
        DPMpp2S(),
        DPMpp2M(),
        DPMpp2M(rule="heun"),
        DPMpp3M(),
    ),
    *(
        DPMpp3M(published=False),
        LMS(),
        PNDM(),
        PNDM(runge_kutta=True),
        DEIS(),
        Adaptive(),
        Adaptive(order=2),
    ),
    *(Single(order, form) for order in (1, 2, 3) for form in ("noise", "clean")),
    *(UniPC(order, variant) for order in (1, 2, 3) for variant in ("bh1", "bh2")),
    *(UniPC(form="noise"), UniPC(3, lower_last=True), SASolver(tau=0.0), TCD(eta=0.0)),
]
STOCHASTIC = [
    *(
        Euler(0.5),
        EulerAncestral(),
        DDIM(0.3),
        DDPM(),
        DDPM("large"),
        Heun(s_churn=3.0),
        DPM2(0.5),
        DPM2Ancestral(),
    ),
    *(
        DPMpp2S(1.0),
        DPMpp2M(0.5),
        DPMpp2MSDE(),
        DPMpp2MSDE(rule="heun"),
        DPMpp3M(0.5),
        DPMpp3MSDE(),
        DPMppSDE(),
    ),
    *(
        DPMpp3M(1.0, published=False),
        Single(3, eta=0.5),
        Adaptive(eta=1.0),
        SASolver(),
        SASolver(3, 4, 0.8),
    ),
    *(SASolver(corrector=0), Restart(), Consistency(), LCM(), TCD()),
]
SAMPLERS = [*DETERMINISTIC, *STOCHASTIC]
# The order that is measured: below what the steps promise where a start at lower order dominates.
ORDERS = {
    **dict.fromkeys([Euler(), DDIM(), Single(1), Single(1, "clean"), LMS(order=1), DEIS(1)], 1),
    **dict.fromkeys(
        [Heun(), Heun("sigma"), DPM2(), DPMpp2S(), DPMpp2M(), DPMpp2M(rule="heun"), DPMpp3M()], 2
    ),
    **dict.fromkeys(
        [Single(2), Single(2, "clean"), PNDM(), PNDM(runge_kutta=True), DEIS(2), LMS(order=2)], 2
    ),
    **dict.fromkeys(
        [UniPC(1, variant, form) for variant in ("bh1", "bh2") for form in ("clean", "noise")], 2
    ),
    **dict.fromkeys(
        [UniPC(2, variant, form) for variant in ("bh1", "bh2") for form in ("clean", "noise")], 3
    ),
    **dict.fromkeys([Single(3), Single(3, "clean")], 3),
}
# At least so, not yet settled at these steps: the error of a higher order still shows beside that
# of the start.
AT_LEAST = {
    **dict.fromkeys(
        [UniPC(3, variant, form) for variant in ("bh1", "bh2") for form in ("clean", "noise")], 3
    ),
    DPMpp3M(published=False): 3,
    LMS(): 2,
    DEIS(3): 2,
}
GAUSSIAN = IdealGaussian(
    torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
)
GAUSSIAN32 = IdealGaussian(torch.tensor(0.3), torch.tensor(0.6))
POINTS = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1))


def silence(shape, interval=None):
    raise AssertionError("a deterministic sampler draws no noise")


def last(sampler, denoise, noisy, times, schedule, noise=silence):
    return list(sampler(denoise, noisy, times, schedule, noise))[-1].noisy


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("sampler", ORDERS, ids=repr)
def test_order_of_convergence(sampler, schedule):
    """Between half-log-SNR -3, or the end of the table at -2.68, and 3 the error falls as steps **
    -order."""
    for coarse, fine in itertools.pairwise(errors(sampler, schedule)):
        assert float(torch.log2(coarse / fine)) == pytest.approx(ORDERS[sampler], abs=0.15)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("sampler", AT_LEAST, ids=repr)
def test_order_of_convergence_at_least(sampler, schedule):
    for coarse, fine in itertools.pairwise(errors(sampler, schedule)):
        assert float(torch.log2(coarse / fine)) > AT_LEAST[sampler] - 0.15


def errors(sampler, schedule):
    """Of 40, 80 and 160 steps, even in half-log-SNR."""
    begin = max(-3.0, float(schedule(torch.ones((), dtype=torch.float64)).half_logsnr))
    for steps in (40, 80, 160):
        times = schedule.when(torch.linspace(begin, 3, steps + 1, dtype=torch.float64))
        level = schedule(times[0])
        noisy = (
            torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
            * (level.alpha**2 + level.sigma**2).sqrt()
        )
        exact = GAUSSIAN.transport(noisy, level, schedule(times[-1]))
        yield (last(sampler, GAUSSIAN, noisy, times, schedule) - exact).abs().max()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_transport_is_the_probability_flow(schedule):
    """Its slope is that of the flow: d_alpha · clean + d_sigma · noise of the posterior mean."""
    noisy = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    t = torch.tensor(0.4005, dtype=torch.float64)  # off the nodes of the table
    level, ahead, behind = schedule(t), schedule(t + 1e-5), schedule(t - 1e-5)
    slope = (
        GAUSSIAN.transport(noisy, level, ahead) - GAUSSIAN.transport(noisy, level, behind)
    ) / 2e-5
    clean = GAUSSIAN(noisy, level).clean
    velocity = level.d_alpha * clean + level.d_sigma * (noisy - level.alpha * clean) / level.sigma
    torch.testing.assert_close(slope, velocity, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_euler_is_the_exact_discrete_recursion(schedule, eta):
    """On a Gaussian every step is affine. Its gain is read off pairs of runs and squared with the
    fresh variance.

    The posterior of DDPM (arXiv 2006.11239, eq. 7), written for any schedule, gives mean and
    variance independently.
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
        forward = (
            level.sigma**2 - ratio**2 * after.sigma**2
        )  # variance that the forward process adds on the way
        variance = eta**2 * after.sigma**2 * forward / level.sigma**2
        noise = (noisy - level.alpha * clean) / level.sigma
        noisy = (
            after.alpha * clean
            + (after.sigma**2 - variance).sqrt() * noise
            + variance.sqrt() * fresh
        )
        torch.testing.assert_close(reached, noisy, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_ancestral_sampling_is_the_posterior_of_ddpm(schedule):
    """With eta 1 a known clean sample is noised back exactly: mean and variance of q(next | noisy,
    clean)."""
    clean, noisy = (
        torch.tensor([[0.8]], dtype=torch.float64),
        torch.tensor([[-1.1]], dtype=torch.float64),
    )
    times = torch.tensor([0.7, 0.4], dtype=torch.float64)
    level, after = schedule(times[0]), schedule(times[1])
    ratio = level.alpha / after.alpha
    forward = level.sigma**2 - ratio**2 * after.sigma**2
    mean = (ratio * after.sigma**2 * noisy + after.alpha * forward * clean) / level.sigma**2
    deviation = (after.sigma**2 * forward / level.sigma**2).sqrt()

    def known(noisy, level):
        return Estimate(clean)

    for draw in (0.0, 1.0):
        reached = last(
            Euler(1.0),
            known,
            noisy,
            times,
            schedule,
            lambda *_: torch.full((1, 1), draw),  # noqa: B023
        )
        torch.testing.assert_close(reached, mean + draw * deviation)


def test_variance_of_ancestral_sampling():
    """The variance that ancestral steps leave is that of their recursion, seen in 20,000
    samples."""
    schedule, times = Cosine(), Uniform()(8, Cosine())
    variance = torch.ones((), dtype=torch.float64)
    for here, there in itertools.pairwise(times):
        level, after = schedule(here), schedule(there)
        fresh = after.sigma**2 * (
            1 - (after.sigma * level.alpha / (after.alpha * level.sigma)) ** 2
        )
        kept = (after.sigma**2 - fresh).sqrt() / level.sigma
        posterior = 0.36 * level.alpha / (0.36 * level.alpha**2 + level.sigma**2)
        variance = ((after.alpha - kept * level.alpha) * posterior + kept) ** 2 * variance + fresh
    reached = last(
        Euler(1.0), GAUSSIAN, SeededNoise([0])((1, 20_000)), times, schedule, SeededNoise([1])
    )
    assert float(reached.var()) == pytest.approx(float(variance), rel=0.04)
    assert float(reached.mean()) == pytest.approx(0.3, abs=0.02)


# Each of these from N(0.3, 0.6²) noised to half-log-SNR -3 makes it again at 3 as its steps grow.
FAITHFUL = [
    one
    for one in STOCHASTIC
    if type(one) not in (Adaptive, Consistency, LCM, TCD) and one != Heun(s_churn=3.0)
]


def moments(sampler, schedule, times, start):
    """The exact mean and variance that a sampler leaves on the Gaussian, where every step is
    affine.

    A run of a batch reads them off: a sample without noise, one whose start is moved by 1, and one
    for each draw.
    """
    rows = 200
    noisy = torch.full((rows, 1), start.alpha * 0.3, dtype=torch.float64)
    noisy[1] += 1
    draws = itertools.count(2)

    def noise(shape, interval=None):
        return torch.eye(rows, dtype=torch.float64)[next(draws)][:, None]

    reached = last(sampler, GAUSSIAN, noisy, times, schedule, noise)[:, 0]
    assert 2 < next(draws) < rows
    gains = reached[1:] - reached[0]
    spread = (start.alpha * 0.6) ** 2 + start.sigma**2
    return reached[0], gains[0] ** 2 * spread + gains[1:].square().sum()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), EDM()], ids=repr)
@pytest.mark.parametrize("sampler", FAITHFUL, ids=repr)
def test_moments_tend_to_the_truth(sampler, schedule):
    off = []
    for steps in (20, 40, 80):
        times = schedule.when(torch.linspace(-3, 3, steps + 1, dtype=torch.float64))
        end = schedule(times[-1])
        mean, variance = moments(sampler, schedule, times, schedule(times[0]))
        torch.testing.assert_close(mean, end.alpha * 0.3)  # every step keeps the mean exactly
        off.append(abs(float(variance / ((end.alpha * 0.6) ** 2 + end.sigma**2)) - 1))
    assert off[2] < 0.1
    assert all(fine < max(0.7 * coarse, 0.002) for coarse, fine in itertools.pairwise(off))


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_is_its_recursion(variance):
    """The mean and either variance of arXiv 2006.11239, eq. 6 and 7 and section 3.2, in betas."""
    schedule = LinearBeta()
    times = torch.tensor([0.6, 0.5, 0.4], dtype=torch.float64)
    bars = schedule(times).alpha ** 2
    noisy = torch.tensor([[0.7]], dtype=torch.float64)
    found = [
        step.noisy
        for step in DDPM(variance)(
            GAUSSIAN, noisy, times, schedule, lambda *_: torch.full((1, 1), 1.5)
        )
    ]
    for (bar, after), here, reached in zip(itertools.pairwise(bars), times, found, strict=False):
        beta = 1 - bar / after
        clean = GAUSSIAN(noisy, schedule(here)).clean
        mean = (
            after.sqrt() * beta / (1 - bar) * clean
            + (1 - beta).sqrt() * (1 - after) / (1 - bar) * noisy
        )
        spread = beta * (1 - after) / (1 - bar) if variance == "small" else beta
        noisy = mean + 1.5 * spread.sqrt()
        torch.testing.assert_close(reached, noisy, rtol=1e-10, atol=0)


def test_learned_variance_lies_between_the_bounds():
    def reached(sampler, place):
        def denoise(noisy, level):
            return Estimate(
                noisy * 0, variance=None if place is None else torch.full_like(noisy, place)
            )

        return last(
            sampler,
            denoise,
            torch.zeros(1, 1),
            torch.tensor([0.7, 0.5]),
            Cosine(),
            lambda *_: torch.ones(1, 1),
        )

    low, high = reached(DDPM(), None), reached(DDPM("large"), None)
    torch.testing.assert_close(reached(DDPM("learned"), 0.0), low)
    torch.testing.assert_close(reached(DDPM("learned"), 1.0), high)
    torch.testing.assert_close(reached(DDPM("learned"), 0.25), low**0.75 * high**0.25)
    with pytest.raises(BadInput, match="needs a model that has learned a variance"):
        reached(DDPM("learned"), None)


def reaches_the_points(sampler, schedule, spacing):
    times = spacing(20, schedule)
    level = schedule(times[0])
    noisy = level.sigma.float() * SeededNoise(range(8))((8, 2, 3, 3))
    steps = list(sampler(IdealPoints(POINTS), noisy, times, schedule, SeededNoise(range(8))))
    assert [step.index for step in steps] == list(range(len(steps)))
    assert steps[-1].total == len(steps)
    assert steps[-1].level.sigma == 0
    assert steps[-1].noisy.dtype == torch.float32
    # LMS extrapolates also in its step to clean, and LCM mixes some of the noisy latents in.
    near = 2e-3 if sampler in (LMS(), LCM()) else 1e-5
    torch.testing.assert_close(steps[-1].noisy, steps[-1].estimate.clean, rtol=0, atol=near)
    distance = (steps[-1].noisy[:, None] - POINTS).flatten(2).norm(dim=2)
    nearest = distance.min(dim=1)
    assert nearest.values.max() < 0.05
    assert len(nearest.indices.unique()) > 1
    return steps


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_samplers_reach_the_points(sampler, schedule):
    if (type(sampler), schedule) != (LCM, EDM()):  # LCM scales by the time in the units of a table
        reaches_the_points(sampler, schedule, Uniform())


@pytest.mark.parametrize("spacing", [Leading(), Karras(), Shifted()], ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=repr)
@pytest.mark.parametrize("sampler", [Euler(), Euler(eta=1.0), Heun(), DPMpp2M()], ids=repr)
def test_steps_are_those_of_the_times(sampler, schedule, spacing):
    steps = reaches_the_points(sampler, schedule, spacing)
    times = spacing(20, schedule)
    assert {step.total for step in steps} == {20}
    for step, t in zip(steps, times[1:], strict=True):
        assert float(step.level.sigma) == float(schedule(t).sigma)
        assert step.left[0] == t


def test_every_sampler_is_tested_here():
    assert {type(one) for one in (*SAMPLERS, DDIMInversion())} == set(
        Slot("diffusion.samplers.*").all()
    )
    for one in Slot("diffusion.samplers.*").all():
        assert all((one.info.name, one.info.order, one.info.passes, one.info.paper))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_inversion_finds_the_noise(schedule):
    """Euler from what it finds is back where it began, the nearer the more steps; from clean
    latents as well."""
    begin = max(-3.0, float(schedule(torch.ones((), dtype=torch.float64)).half_logsnr))
    clean = torch.linspace(-1, 1.5, 6, dtype=torch.float64)[:, None]
    for end in ([], [math.inf]):
        off = []
        for steps in (50, 100):
            lam = torch.linspace(begin, 3, steps + 1, dtype=torch.float64)
            times = schedule.when(torch.cat([lam, torch.tensor(end, dtype=torch.float64)]))
            run = list(DDIMInversion()(GAUSSIAN, clean, times, schedule, silence))
            assert run[-1].level.sigma == schedule(times[0]).sigma
            off.append(
                (last(Euler(), GAUSSIAN, run[-1].noisy, times, schedule) - clean).abs().max()
            )
        assert off[1] < 0.6 * off[0] < 0.1


# Left out: what remembers how many steps a run has, or draws without an interval.
KEPT = [one for one in SAMPLERS if one not in (Restart(), Heun(s_churn=3.0), Adaptive(eta=1.0))]


@pytest.mark.parametrize("sampler", KEPT, ids=repr)
def test_a_run_goes_on_from_a_kept_step(sampler):
    """One-step samplers as if never stopped; the others near to it, since they begin again at first
    order."""
    noise = BrownianNoise(range(4))
    schedule, times = Cosine(), Uniform()(16, Cosine())
    steps = list(sampler(GAUSSIAN32, SeededNoise(range(4))((4, 2, 3, 3)), times, schedule, noise))
    kept = steps[len(steps) // 2]
    again = list(sampler(GAUSSIAN32, kept.noisy, kept.left, schedule, noise))
    if type(sampler) in (
        Euler,
        DDIM,
        EulerAncestral,
        Heun,
        DPM2,
        DPM2Ancestral,
        Single,
        DPMpp2S,
        DPMppSDE,
        DDPM,
    ):
        assert torch.equal(again[-1].noisy, steps[-1].noisy)
    torch.testing.assert_close(again[-1].noisy, steps[-1].noisy, rtol=0, atol=0.15)


def test_a_picture_is_noised_image_to_image_start():
    clean, times = torch.full((1, 1), 0.5), Uniform()(10, Linear())
    noisy, left = image_to_image_start(
        clean, 0.4, times, Linear(), lambda *_: torch.full((1, 1), 2.0)
    )
    assert torch.equal(left, times[6:])
    torch.testing.assert_close(noisy, torch.full((1, 1), 0.6 * 0.5 + 0.4 * 2.0))
    assert (
        image_to_image_start(clean, 0.59, times, Linear(), SeededNoise([0]))[1].tolist()
        == times[5:].tolist()
    )
    assert (
        len(image_to_image_start(clean, 0.7, times, Linear(), SeededNoise([0]))[1]) == 8
    )  # though 0.7 · 10 is below 7 in binary
    assert torch.equal(
        image_to_image_start(clean, 1.0, times, Linear(), SeededNoise([0]))[0],
        SeededNoise([0])((1, 1)),
    )
    same, none = image_to_image_start(clean, 0.0, times, Linear(), silence)
    assert same is clean
    assert list(Euler()(silence, same, none, Linear(), silence)) == []
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(BadInput, match=f"strength must be from 0 to 1, got {strength}"):
            image_to_image_start(clean, strength, times, Linear(), silence)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_many_runs_at_once(sampler):
    """Threads that share a sampler take nothing from each other."""

    def run(seed):
        noise = SeededNoise([seed])
        return last(
            sampler, GAUSSIAN32, noise((1, 2, 3, 3)), Uniform()(6, Cosine()), Cosine(), noise
        )

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(8)))
    assert all(torch.equal(one, run(seed)) for seed, one in enumerate(together))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("times", [[0.5, 0.7, 0.0], [1.0, math.nan, 0.0], [0.5, 0.5, 0.0]])
def test_times_out_of_order_are_refused_before_any_pass(sampler, times):
    with pytest.raises(BadInput, match="times must be finite and fall, got"):
        last(sampler, silence, torch.zeros(1, 1), torch.tensor(times), Cosine())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("ideal", [IdealPoints(POINTS), GAUSSIAN32])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_seed_is_a_sample_whatever_the_batch(sampler, ideal):
    def samples(seeds):
        noise = SeededNoise(seeds)
        return last(
            sampler, ideal, noise((len(seeds), 2, 3, 3)), Uniform()(6, Cosine()), Cosine(), noise
        )

    whole = samples(range(8))
    assert len({sample.sum().item() for sample in whole}) > 1
    assert torch.equal(whole, torch.cat([samples(range(3)), samples(range(3, 8))]))
    assert torch.equal(whole, torch.cat([samples([seed]) for seed in range(8)]))


CALLS = [
    (Euler(), 6),
    (Heun(), 11),
    (DPM2(), 10),
    (DPMpp2M(), 6),
    (DPMpp3M(), 6),
    (UniPC(3), 6),
    (LMS(), 6),
]
CALLS += [
    (DEIS(), 6),
    (PNDM(), 7),
    (Single(2), 10),
    (Single(3), 14),
    (DPMpp2S(), 10),
    (TCD(eta=0.0), 6),
]


@pytest.mark.parametrize(("sampler", "calls"), CALLS, ids=repr)
def test_passes_a_run(sampler, calls):
    """At 6 steps of which the first is from pure noise and the last to clean."""
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
    reached = last(
        sampler,
        lambda noisy, level: Estimate(noisy * 0 + 2, noise=own),
        torch.ones(1, 1),
        times,
        Linear(),
    )
    torch.testing.assert_close(reached, 0.7 * torch.full((1, 1), 2.0) + 0.3 * own)


def test_interval_of_a_draw_is_that_of_the_step():
    intervals = []

    def noise(shape, interval):
        intervals.append(interval)
        return torch.zeros(shape)

    last(
        Euler(1.0),
        GAUSSIAN,
        torch.zeros(1, 1),
        torch.tensor([1.0, 0.5, 0.25, 0.0]),
        Linear(),
        noise,
    )
    assert intervals == [(1.0, 0.5), (0.5, 0.25)]


def test_ideal_points_is_the_posterior_mean():
    points = torch.tensor([[[0.0, 1.0]], [[2.0, -1.0]]], dtype=torch.float64)
    noisy = torch.tensor([[[0.5, 0.1]], [[-1.0, 2.0]]], dtype=torch.float64)
    level = Linear()(torch.tensor([0.4, 0.7], dtype=torch.float64)[:, None, None])
    for row, alpha, sigma, clean in zip(
        noisy, level.alpha, level.sigma, IdealPoints(points)(noisy, level).clean, strict=True
    ):
        densities = [
            math.exp(-float(((row - alpha * p) ** 2).sum() / (2 * sigma**2))) for p in points
        ]
        wanted = sum(d * p for d, p in zip(densities, points, strict=True)) / sum(densities)
        torch.testing.assert_close(clean, wanted)
    single = IdealPoints(points)(noisy[:1], Linear()(torch.tensor(0.4, dtype=torch.float64))).clean
    torch.testing.assert_close(single, IdealPoints(points)(noisy, level).clean[:1])


def test_ideal_gaussian_is_the_limit_of_many_points():
    grid = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    noisy, level = (
        torch.tensor([[-1.0], [0.4], [2.0]], dtype=torch.float64),
        Cosine()(torch.tensor(0.5)),
    )
    many = IdealPoints(0.3 + 0.6 * grid[:, None])(noisy, level).clean
    torch.testing.assert_close(many, GAUSSIAN(noisy, level).clean, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "kind", [Euler, DDIM, EulerAncestral, DPM2, DPMpp2M, DPMpp3MSDE, Adaptive, TCD]
)
@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_is_refused(kind, eta):
    with pytest.raises(BadInput, match=f"eta must be from 0 to 1, got {eta}"):
        kind(eta=eta)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Euler(s_noise=0.0), "s_noise must be above 0, got 0.0"),
        (lambda: Heun(s_churn=math.nan), "s_churn must be 0 or more, got nan"),
        (
            lambda: Heun(s_tmin=2.0, s_tmax=1.0),
            "s_tmin must be within 0 and s_tmax, got",
        ),
        (lambda: Single(4), "order must be from 1 to 3, got 4"),
        (lambda: Adaptive(order=1), "order must be 2 or 3, got 1"),
        (lambda: Adaptive(relative=0.0), "tolerances must be above 0, got"),
        (lambda: UniPC(0), "order must be from 1 to 3, got 0"),
        (lambda: SASolver(tau=math.inf), "tau must be from 0 to 2, got inf"),
        (lambda: SASolver(corrector=5), "corrector must be an order from 0 to 4, got 5"),
        (lambda: LMS(5), "order must be from 1 to 4, got 5"),
        (lambda: Restart(low=0.5), "low must be above 0 and below high, got"),
        (lambda: Restart(count=0), "count must be at least 1, got 0"),
        (lambda: LCM(scaling=0.0), "scaling and deviation must be above 0, got"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BadInput, match=message):
        make()
