"""Every schedule against its closed form, its slopes, its inverse and its published table."""

import math

import pytest
import torch

from safelight.diffusion.schedule import (
    EDM,
    Cosine,
    Linear,
    LinearBeta,
    ScaledLinear,
    Sigmoid,
    Table,
)
from safelight.errors import BadInput

ZERO = ScaledLinear(zero_terminal=True)
PRESERVING = [
    ScaledLinear(),
    ZERO,
    LinearBeta(),
    Table((0.9, 0.5, 0.2, 0.01)),
    Cosine(),
    Sigmoid(),
    Sigmoid(0, 4, 0.7),
]
SCHEDULES = [Linear(), *PRESERVING, EDM()]
# Off the nodes of the table, where the slope of ScaledLinear jumps.
TIMES = torch.arange(0.5, 1000, 7, dtype=torch.float64) / 1000


def test_linear_is_the_straight_path():
    level = Linear(time_scale=10.0)(TIMES)
    assert torch.equal(level.alpha, 1 - TIMES)
    assert torch.equal(level.sigma, TIMES)
    assert torch.equal(level.time, 10 * TIMES)


def test_scaled_linear_is_the_table_of_stable_diffusion():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    table = (1 - betas).cumprod(0)
    level = ScaledLinear()(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(level.alpha**2, table, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        level.time, torch.arange(1000, dtype=torch.float64), rtol=0, atol=1e-9
    )
    assert level.alpha[-1] ** 2 == pytest.approx(0.0046601, abs=5e-8)
    assert level.sigma[0] / level.alpha[0] == pytest.approx((0.00085 / 0.99915) ** 0.5, rel=1e-9)
    assert ScaledLinear()(torch.tensor(0.0005)).time == 0


def test_cosine_is_that_of_improved_ddpm():
    angle = (TIMES + 0.008) / 1.008 * math.pi / 2
    closed = torch.cos(angle) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    level = Cosine()(TIMES)
    torch.testing.assert_close(level.alpha**2, closed, rtol=1e-11, atol=0)
    torch.testing.assert_close(level.time, 1000 * TIMES)
    assert Cosine()(torch.tensor(1.0)).alpha == 0


@pytest.mark.parametrize("wide", [LinearBeta(), LinearBeta(zero_terminal=True)], ids=repr)
def test_linear_beta_is_the_table_of_ddpm(wide):
    table = (1 - torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)).cumprod(0).sqrt()
    if wide.zero_terminal:  # arXiv 2305.08891, algorithm 1
        table = (table - table[-1]) * table[0] / (table[0] - table[-1])
    alpha = wide(torch.arange(1, 1001, dtype=torch.float64) / 1000).alpha
    torch.testing.assert_close(alpha, table, rtol=1e-11, atol=0)


@pytest.mark.parametrize("schedule", [ZERO, LinearBeta(zero_terminal=True)], ids=repr)
def test_zero_terminal_ends_in_pure_noise_and_begins_as_before(schedule):
    end = schedule(torch.ones((), dtype=torch.float64))
    assert (end.alpha, end.sigma) == (0, 1)
    assert end.d_alpha < 0
    plain = type(schedule)()
    times = torch.tensor([0.0, 0.0004, 0.001], dtype=torch.float64)
    torch.testing.assert_close(schedule(times).alpha, plain(times).alpha, rtol=1e-14, atol=0)


def test_a_table_is_read_at_its_entries():
    level = Table((0.9, 0.5, 0.2, 0.01))(torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    torch.testing.assert_close(
        level.alpha**2, torch.tensor([0.9, 0.5, 0.2, 0.01], dtype=torch.float64)
    )
    assert level.time.tolist() == [0, 1, 2, 3]


def test_sigmoid_is_its_formula():
    def s(x):
        return 1 / (1 + torch.exp(-torch.as_tensor(x, dtype=torch.float64) / 0.7))

    closed = (s(4) - s(4 * TIMES)) / (s(4) - s(0))
    torch.testing.assert_close(Sigmoid(0, 4, 0.7)(TIMES).alpha ** 2, closed, rtol=1e-11, atol=0)
    assert Sigmoid()(torch.tensor(1.0)).alpha == 0


def test_edm_explodes():
    level = EDM()(TIMES)
    assert torch.equal(level.alpha, torch.ones_like(TIMES))
    torch.testing.assert_close(level.sigma ** (1 / 7), TIMES * 80 ** (1 / 7))
    torch.testing.assert_close(level.time, level.sigma.log() / 4)


@pytest.mark.parametrize("schedule", PRESERVING, ids=repr)
def test_variance_is_preserved(schedule):
    level = schedule(TIMES)
    torch.testing.assert_close(
        level.alpha**2 + level.sigma**2, torch.ones_like(TIMES), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_slopes_are_the_derivatives(schedule):
    t = TIMES.clone().requires_grad_()
    level = schedule(t)
    for value, slope in [(level.alpha, level.d_alpha), (level.sigma, level.d_sigma)]:
        (derivative,) = torch.autograd.grad((value + 0 * t).sum(), t, retain_graph=True)
        torch.testing.assert_close(slope, derivative, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_when_is_the_inverse(schedule):
    times = torch.cat([torch.tensor([1e-7, 1e-5, 1e-3], dtype=torch.float64), TIMES])
    torch.testing.assert_close(
        schedule.when(schedule(times).half_logsnr), times, rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_when_knows_both_ends(schedule):
    ends = schedule.when(torch.tensor([math.inf, -math.inf], dtype=torch.float64))
    torch.testing.assert_close(
        ends, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_clean_is_clean(schedule):
    level = schedule(torch.zeros((), dtype=torch.float64))
    assert (level.alpha, level.sigma) == (1, 0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_single_precision_does_not_cancel_near_clean(schedule):
    times = torch.tensor([1e-4 if schedule == EDM() else 1e-6, 1e-4, 0.01, 0.5])
    single, double = schedule(times), schedule(times.double())
    torch.testing.assert_close(single.sigma.double(), double.sigma, rtol=2e-6, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float32, torch.float64])
def test_precision_is_never_lost(schedule, given):
    wanted = torch.float64 if given == torch.float64 else torch.float32
    level = schedule(torch.full((2, 1, 3), 0.5, dtype=given))
    for value in vars(level).values():
        assert value.dtype == wanted
        assert value.shape == (2, 1, 3)
    assert schedule.when(torch.zeros(2, dtype=given)).dtype == wanted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0.0), "time_scale must be above 0, got 0.0"),
        (lambda: Linear(math.nan), "time_scale must be above 0, got nan"),
        (lambda: ScaledLinear(steps=0), "steps must be at least 1, got 0"),
        (lambda: ScaledLinear(beta_start=0.0), "betas must rise within 0 and 1, got"),
        (lambda: ScaledLinear(beta_start=0.02), "betas must rise within 0 and 1, got"),
        (lambda: ScaledLinear(beta_end=1.0), "betas must rise within 0 and 1, got"),
        (lambda: LinearBeta(beta_end=math.nan), "betas must rise within 0 and 1, got"),
        (lambda: Table((0.5, 0.5)), r"alphas_cumprod must fall within 1 and 0, got \(0.5, 0.5\)"),
        (lambda: Table((0.5, math.nan)), "alphas_cumprod must fall within 1 and 0, got"),
        (lambda: Table(()), "alphas_cumprod must fall within 1 and 0, got"),
        (lambda: Sigmoid(start=3.0), "start must be below end, got"),
        (lambda: Sigmoid(temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: EDM(sigma_max=math.nan), "sigma_max must be above 0, got nan"),
        (lambda: EDM(rho=0.0), "rho must be above 0, got 0.0"),
        (lambda: Cosine(offset=-0.1), "offset must be 0 or more, got -0.1"),
        (lambda: Cosine(time_scale=-1.0), "time_scale must be above 0, got -1.0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BadInput, match=message):
        make()
