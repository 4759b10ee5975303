"""Densities: their quantiles, and strata that take turns."""

import math

import pytest
import torch

from safelight.diffusion.density import LogitNormal, Uniform
from safelight.errors import BadInput

U = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
ANYWHERE = torch.zeros(1000, dtype=torch.long)


def test_uniform_leaves_the_draw_as_it_is():
    assert torch.equal(Uniform()(U, ANYWHERE), U)


def test_logit_normal_has_normal_logits():
    logits = torch.logit(LogitNormal(mean=-0.4, std=1.2)(U, ANYWHERE))
    assert float(logits.mean()) == pytest.approx(-0.4, abs=1e-6)
    assert float(logits.std()) == pytest.approx(1.2, rel=5e-3)
    assert float(LogitNormal(mean=0.7)(torch.tensor(0.5), torch.tensor(3))) == pytest.approx(
        1 / (1 + math.exp(-0.7)), abs=1e-6
    )


@pytest.mark.parametrize("density", [Uniform(strata=4), LogitNormal(strata=4)], ids=repr)
def test_strata_take_turns_by_position(density):
    """Whatever the draw, the samples at positions k mod 4 stay within the k-th quarter of the
    distribution."""
    whole = type(density)()
    edges = whole(
        torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    )
    for position in range(4, 12):
        t = density(U, torch.full((1000,), position))
        assert (torch.bucketize(t, edges) == position % 4).all()
    rounds = (
        torch.cat([density(U, torch.full((1000,), position)) for position in range(4)])
        .sort()
        .values
    )
    fine = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    torch.testing.assert_close(rounds, whole(fine, torch.zeros(4000, dtype=torch.long)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(strata=0), "strata must be at least 1, got 0"),
        (lambda: LogitNormal(strata=-1), "strata must be at least 1, got -1"),
        (lambda: LogitNormal(mean=math.inf), "mean must be a number, got inf"),
        (lambda: LogitNormal(std=0.0), "std must be above 0, got 0.0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BadInput, match=message):
        make()
