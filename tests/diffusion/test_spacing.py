"""Spacings: their closed forms, and what all of them promise."""

import math

import pytest
import torch

from safelight.diffusion.schedule import Cosine, Linear, ScaledLinear
from safelight.diffusion.spacing import Karras, Leading, Shifted, Uniform
from safelight.errors import BadInput

SPACINGS = [Uniform(), Leading(), Karras(), Shifted()]
SCHEDULES = [Linear(), ScaledLinear(), Cosine()]


def close(times, wanted):
    torch.testing.assert_close(times, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("begin", [1.0, 0.6, 0.06])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("spacing", SPACINGS, ids=repr)
def test_times_fall_from_begin_to_clean(spacing, schedule, steps, begin):
    times = spacing(steps, schedule, begin)
    assert times.dtype == torch.float64
    assert times.shape == (steps + 1,)
    assert (times.diff() < 0).all()
    assert times[-1] == 0
    assert times[0] <= begin + 1e-12


@pytest.mark.parametrize("begin", [1.0, 0.3])
@pytest.mark.parametrize("spacing", [Uniform(), Shifted(), Shifted(0.5)], ids=repr)
def test_the_first_time_is_begin(spacing, begin):
    assert float(spacing(5, Linear(), begin)[0]) == pytest.approx(begin, abs=1e-15)


def test_uniform_is_the_trailing_spacing_of_a_table():
    heard = ScaledLinear()(Uniform()(10, ScaledLinear())[:-1]).time
    close(heard.round(decimals=9), [999.0, 899, 799, 699, 599, 499, 399, 299, 199, 99])


@pytest.mark.parametrize(("offset", "last"), [(0, 0.0), (1, 1.0)])
def test_leading_counts_from_the_clean_end(offset, last):
    heard = ScaledLinear()(Leading(offset=offset)(4, ScaledLinear())[:-1]).time
    close(heard.round(decimals=9), [750 + last, 500 + last, 250 + last, last])


def test_karras_is_even_in_the_seventh_root():
    schedule = ScaledLinear()
    level = schedule(Karras()(5, schedule)[:-1])
    ratio = level.sigma / level.alpha
    assert float(ratio[0]) == pytest.approx(14.614647, abs=1e-5)
    assert float(ratio[-1]) == pytest.approx(0.0291675, abs=1e-6)
    roots = ratio ** (1 / 7)
    torch.testing.assert_close(roots.diff(), (roots[-1] - roots[0]).expand(4) / 4)


def test_karras_takes_ends_of_its_own():
    level = Linear()(Karras(sigma_min=0.1, sigma_max=80.0)(5, Linear())[:-1])
    torch.testing.assert_close((level.sigma / level.alpha)[[0, -1]], torch.tensor([80.0, 0.1], dtype=torch.float64))


def test_karras_stops_short_of_pure_noise():
    assert float(Karras()(5, Linear())[0]) == pytest.approx(0.999, abs=1e-12)


def test_shifted_is_its_formula():
    t = torch.linspace(1, 0, 5, dtype=torch.float64)
    close(Shifted(3.0)(4, Linear()), [3 * x / (1 + 2 * x) for x in t.tolist()])
    close(Shifted(1.0)(4, Linear()), t.tolist())


@pytest.mark.parametrize("spacing", SPACINGS, ids=repr)
@pytest.mark.parametrize(
    ("steps", "begin", "message"),
    [
        (0, 1.0, "steps must be from 1 to 10000, got 0"),
        (10_001, 1.0, "steps must be from 1 to 10000, got 10001"),
        (5, 0.0, "begin must be above 0 and at most 1, got 0.0"),
        (5, 1.5, "begin must be above 0 and at most 1, got 1.5"),
    ],
)
def test_every_spacing_refuses(spacing, steps, begin, message):
    with pytest.raises(BadInput, match=message):
        spacing(steps, Linear(), begin)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Leading(table=1), "table must have 2 entries or more, got 1"),
        (lambda: Leading(offset=-1), "offset must be an entry of the table, got -1"),
        (lambda: Leading(table=10)(11, Linear()), "find its steps among 10 entries, got 11"),
        (lambda: Leading(table=10)(10, Linear()), "find its steps among 10 entries, got 10"),
        (lambda: Karras(rho=0.0), "rho must be above 0, got 0.0"),
        (lambda: Karras(sigma_min=0.0), "sigmas must be above 0, got"),
        (lambda: Karras(sigma_max=math.inf), "sigmas must be above 0, got"),
        (lambda: Karras(sigma_min=2.0, sigma_max=1.0)(5, Linear()), "below where the steps begin, 1, got 2.0"),
        (lambda: Shifted(0.0), "shift must be above 0, got 0.0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BadInput, match=message):
        make()
