"""Spacings: their closed forms, and what all of them promise."""

import math

import pytest
import torch

from safelight.diffusion.schedule import EDM, Cosine, Linear, ScaledLinear, Sigmoid
from safelight.diffusion.spacing.ays import AYS
from safelight.diffusion.spacing.beta import Beta
from safelight.diffusion.spacing.even import Leading, Linspace, Quadratic, Uniform
from safelight.diffusion.spacing.explicit import Sigmas, Times
from safelight.diffusion.spacing.shifted import Shifted, ShiftedByTokens, ShiftedTwice
from safelight.diffusion.spacing.sigmas import Exponential, Karras, Polyexponential
from safelight.errors import BadInput

TABLES = [Leading(), Linspace(), ShiftedTwice()]
RATIOS = [Karras(), Exponential(), Polyexponential()]
SPACINGS = [
    Uniform(),
    Quadratic(),
    Beta(),
    Shifted(),
    ShiftedByTokens(),
    AYS(),
    AYS("svd"),
    *TABLES,
    *RATIOS,
]
SCHEDULES = [Linear(), ScaledLinear(), Cosine(), Sigmoid()]


def close(times, wanted):
    torch.testing.assert_close(times, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("begin", [1.0, 0.06])
@pytest.mark.parametrize("steps", [1, 2, 50])
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
    torch.testing.assert_close(
        (level.sigma / level.alpha)[[0, -1]], torch.tensor([80.0, 0.1], dtype=torch.float64)
    )


def test_karras_stops_short_of_pure_noise():
    assert float(Karras()(5, Linear())[0]) == pytest.approx(0.999, abs=1e-12)


def test_shifted_is_its_formula():
    t = torch.linspace(1, 0, 5, dtype=torch.float64)
    close(Shifted(3.0)(4, Linear()), [3 * x / (1 + 2 * x) for x in t.tolist()])
    close(Shifted(1.0)(4, Linear()), t.tolist())


@pytest.mark.parametrize("spacing", [Uniform(), Karras(), Exponential(), AYS("svd")], ids=repr)
def test_times_fall_where_variance_explodes(spacing):
    assert (spacing(20, EDM()).diff() < 0).all()


def test_linspace_and_quadratic_are_their_formulas():
    close(Linspace()(4, Linear()), [1.0, 0.667, 0.334, 0.001, 0.0])
    close(Quadratic()(4, Linear(), 0.8), [0.8 * x**2 for x in (1.0, 0.75, 0.5, 0.25, 0.0)])


def test_exponential_is_even_in_half_logsnr():
    for spacing, rho in [(Exponential(), 1.0), (Polyexponential(), 1.5)]:
        found = ScaledLinear()(spacing(5, ScaledLinear())[:-1]).half_logsnr
        ramp = torch.linspace(1, 0, 5, dtype=torch.float64) ** rho
        torch.testing.assert_close((found - found[-1]) / (found[0] - found[-1]), ramp)


@pytest.mark.parametrize(
    ("tokens", "wanted"),  # the schedules of FLUX.1 at 4 steps
    [
        (256, [0.831824, 0.622459, 0.354661]),
        (1024, [0.849235, 0.652489, 0.384945]),
        (4096, [0.904531, 0.759511, 0.512844]),
    ],
)
def test_flux_shifts_by_tokens(tokens, wanted):
    found = ShiftedByTokens(tokens)(4, Linear())
    torch.testing.assert_close(
        found, torch.tensor([1, *wanted, 0], dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_sd3_shifts_twice():
    """The reference's sigmas at 4, 10 and 28 steps; shifting once ends in 0.195652, 0.105948,
    0.002994 at 28."""
    for steps, wanted in {
        4: [1, 0.857692, 0.602151, 0.008929, 0],
        10: [
            1,
            0.960129,
            0.913349,
            0.857692,
            0.790368,
            0.707278,
            0.602151,
            0.464876,
            0.278049,
            0.008929,
            0,
        ],
        28: [0.199827, 0.110906, 0.008929, 0],
    }.items():
        found = ShiftedTwice()(steps, Linear())[-len(wanted) :]
        torch.testing.assert_close(
            found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (2.0, 5.0), (1.3, 0.9)])
def test_beta_is_the_quantile(a, b):
    share = Beta(a, b)(9, Linear()).flip(0)
    grid = torch.linspace(0, 1, 2_000_001, dtype=torch.float64)
    middle = (grid[1:] + grid[:-1]) / 2
    mass = (middle ** (a - 1) * (1 - middle) ** (b - 1)).cumsum(0)
    found = mass[(share[1:-1] * 2_000_000).long()] / mass[-1]
    torch.testing.assert_close(
        found, torch.arange(1, 9, dtype=torch.float64) / 9, rtol=0, atol=3e-4
    )
    close(Beta(1.0, 1.0)(4, Linear()), [1.0, 0.75, 0.5, 0.25, 0.0])


def test_ays_is_its_table_at_ten_steps():
    level = ScaledLinear()(AYS()(10, ScaledLinear()))
    wanted = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0]
    torch.testing.assert_close(
        level.sigma / level.alpha, torch.tensor(wanted, dtype=torch.float64), rtol=3e-5, atol=0
    )
    between = ScaledLinear()(AYS()(20, ScaledLinear()))
    assert float(between.sigma[1] / between.alpha[1]) == pytest.approx(
        (14.6146 * 6.475) ** 0.5, rel=1e-5
    )


def test_explicit_times_and_sigmas():
    close(Times((0.9, 0.3, 0.0))(2, Linear()), [0.9, 0.3, 0.0])
    close(Sigmas((9.0, 1.0, 0.0))(2, Linear()), [0.9, 0.5, 0.0])


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
        (
            lambda: Karras(sigma_min=2.0, sigma_max=1.0)(5, Linear()),
            "below where the steps begin, 1, got 2.0",
        ),
        (lambda: Linspace(table=1), "table must have 2 entries or more, got 1"),
        (
            lambda: Linspace()(5, Linear(), 0.0005),
            "begin must be above the first entry, 0.001, got 0.0005",
        ),
        (lambda: Beta(alpha=0.0), r"alpha and beta must be within 0 and 100, got \(0.0, 0.6\)"),
        (lambda: Polyexponential(rho=math.nan), "rho must be above 0, got nan"),
        (lambda: Exponential(sigma_min=-1.0), "sigmas must be above 0, got"),
        (lambda: AYS("sd9"), "family must be one of sd1, sdxl, svd, got 'sd9'"),
        (
            lambda: AYS()(5, Linear(), 0.01),
            "begin must lie above the last level of the table, got 0.01",
        ),
        (lambda: Times((1.0,)), "times must have two ends or more, got"),
        (lambda: Times((1.0, 0.2, 0.4, 0.0)), "times must fall to 0 or above, got"),
        (lambda: Sigmas((1.0, math.nan, 0.0)), "sigmas must fall to 0 or above, got"),
        (lambda: Times((1.2, 0.0)), "times must be at most 1, got"),
        (lambda: Times((1.0, 0.0))(3, Linear()), "2 given levels are 1 steps, got 3"),
        (lambda: Times((1.0, 0.0))(1, Linear(), 0.5), "must not pass begin = 0.5, got 1.0"),
        (
            lambda: Sigmas((99.0, 80.0, 0.0))(2, EDM(sigma_max=70.0)),
            "sigmas must lie within the schedule",
        ),
        (lambda: ShiftedByTokens(-1), "tokens must be 0 or more, got -1"),
        (lambda: ShiftedByTokens(low_tokens=5000), "low_tokens must be below high_tokens, got"),
        (lambda: ShiftedTwice(shift=math.nan), "shift must be above 0, got nan"),
        (lambda: Shifted(0.0), "shift must be above 0, got 0.0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_a_spacing_by_size_takes_that_of_the_picture_unless_it_names_one():
    by_size = ShiftedByTokens()
    assert torch.equal(by_size.for_tokens(256)(4, Linear()), ShiftedByTokens(256)(4, Linear()))
    assert torch.equal(by_size(4, Linear()), ShiftedByTokens(4096)(4, Linear()))
    assert ShiftedByTokens(64).for_tokens(256).tokens == 64
