"""Every schedule against its closed form, its slopes, its inverse and its published table."""

import math

import pytest
import torch

from safelight.diffusion.schedule import Cosine, Linear, ScaledLinear
from safelight.errors import BadInput

SCHEDULES = [Linear(), ScaledLinear(), Cosine()]
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
    torch.testing.assert_close(level.time, torch.arange(1000, dtype=torch.float64), rtol=0, atol=1e-9)
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


@pytest.mark.parametrize("schedule", SCHEDULES[1:], ids=repr)
def test_variance_is_preserved(schedule):
    level = schedule(TIMES)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones_like(TIMES), rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_slopes_are_the_derivatives(schedule):
    t = TIMES.clone().requires_grad_()
    level = schedule(t)
    for value, slope in [(level.alpha, level.d_alpha), (level.sigma, level.d_sigma)]:
        (derivative,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(slope, derivative, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_when_is_the_inverse(schedule):
    times = torch.cat([torch.tensor([1e-7, 1e-5, 1e-3], dtype=torch.float64), TIMES])
    torch.testing.assert_close(schedule.when(schedule(times).half_logsnr), times, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_when_knows_both_ends(schedule):
    ends = schedule.when(torch.tensor([math.inf, -math.inf], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_clean_is_clean(schedule):
    level = schedule(torch.zeros((), dtype=torch.float64))
    assert (level.alpha, level.sigma) == (1, 0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_single_precision_does_not_cancel_near_clean(schedule):
    times = torch.tensor([1e-6, 1e-4, 0.01, 0.5])
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
        (lambda: Cosine(offset=-0.1), "offset must be 0 or more, got -0.1"),
        (lambda: Cosine(time_scale=-1.0), "time_scale must be above 0, got -1.0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BadInput, match=message):
        make()
