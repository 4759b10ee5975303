"""Draws: the same bits in any batch, keyed by what they should be keyed by, and standard normal."""

import itertools
import math

import pytest
import torch

from safelight.diffusion.noise import (
    BrownianNoise,
    RecordedNoise,
    SeededNoise,
    sample_noise,
    sample_uniform,
)
from safelight.errors import BadInput

SEEDS = [3, 1, 4, 15, 92, 65, 2**40 + 1, 2**64 - 1]
SPLITS = [[8], [3, 5], [1] * 8]


def split(items, sizes):
    rest = iter(items)
    return [list(itertools.islice(rest, size)) for size in sizes]


@pytest.mark.parametrize("source", [SeededNoise, BrownianNoise])
@pytest.mark.parametrize("shape", [(4, 8, 8), (3,), (1, 5, 3)])
def test_draws_are_the_same_bits_in_any_batch(source, shape):
    def draws(sizes):
        parts = [source(seeds) for seeds in split(SEEDS, sizes)]
        steps = [(0.9, 0.6), (0.6, 0.25)]
        return [
            torch.cat([part((n, *shape), step) for part, n in zip(parts, sizes, strict=True)])
            for step in steps
        ]

    whole, *others = [draws(sizes) for sizes in SPLITS]
    assert not torch.equal(whole[0], whole[1])
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


def test_a_place_in_the_batch_does_not_matter():
    forward, backward = SeededNoise(SEEDS)((8, 4, 8)), SeededNoise(SEEDS[::-1])((8, 4, 8))
    assert torch.equal(forward, backward.flip(0))


def test_seeded_noise_is_that_of_the_generator():
    wanted = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(15))
    assert torch.equal(SeededNoise([15])((1, 4, 8, 8))[0], wanted)


def test_large_seeds_differ_too():
    first, second = SeededNoise([1, 2**32 + 1])((2, 16))
    assert not torch.equal(first, second)


def test_brownian_increments_add_up():
    noise = BrownianNoise([7, 8])
    shape, (a, b, c) = (2, 4, 8), (1001 / 2**17, 12345 / 2**15, 30001 / 2**15)
    whole = math.sqrt(c - a) * noise(shape, (c, a))
    parts = math.sqrt(b - a) * noise(shape, (b, a)) + math.sqrt(c - b) * noise(shape, (c, b))
    torch.testing.assert_close(whole, parts, rtol=0, atol=2e-6)


def test_brownian_increments_are_standard_and_independent():
    noise, shape = BrownianNoise([5]), (1, 20_000)
    times = [1.0, 0.7001, 0.7, 0.31, 0.0]
    draws = torch.cat([noise(shape, pair) for pair in itertools.pairwise(times)])
    torch.testing.assert_close(torch.cov(draws), torch.eye(4), rtol=0, atol=0.05)


def test_brownian_draws_do_not_depend_on_what_was_drawn_before():
    shape, pairs = (2, 4, 8), [(0.9, 0.71), (0.71, 0.5), (0.5, 0.0031)]
    steps = BrownianNoise([7, 8])
    for drawn, pair in zip([steps(shape, pair) for pair in pairs], pairs, strict=True):
        assert torch.equal(drawn, BrownianNoise([7, 8])(shape, pair))


@pytest.mark.parametrize("pair", [(1.0, 1.0 - 1e-4), (2e-4, 1e-4), (1e-5, 0.0)])
def test_brownian_increments_are_standard_in_short_intervals_too(pair):
    drawn = BrownianNoise([5])((1, 20_000), pair)
    assert abs(float(drawn.std()) - 1) < 0.02


def test_recorded_noise_replays():
    draws = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    noise = RecordedNoise(list(draws))
    assert torch.equal(torch.stack([noise((3, 4)), noise((3, 4))]), draws)
    with pytest.raises(BadInput, match="recording of 2 draws was asked for more, got 3"):
        noise((3, 4))
    with pytest.raises(BadInput, match=r"must be \(3, 5\), got \(3, 4\)"):
        RecordedNoise(list(draws))((3, 5))


@pytest.mark.parametrize(
    "draw", [lambda at: sample_noise(9, at, (len(at), 4, 8)), lambda at: sample_uniform(9, at)]
)
def test_training_draws_follow_the_position_alone(draw):
    positions = [0, 1, 5, 10**9, 2**33, 3, 2, 7]
    whole = draw(positions)
    assert len({row.sum().item() for row in whole}) == 8
    for sizes in SPLITS[1:]:
        assert torch.equal(
            whole, torch.cat([draw(torch.tensor(part)) for part in split(positions, sizes)])
        )


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed, stream: sample_noise(seed, [1], (1, 9), stream),
        lambda *key: sample_uniform(key[0], [1], key[1]),
    ],
)
def test_seeds_and_streams_differ(draw):
    assert torch.equal(draw(1, "a"), draw(1, "a"))
    assert not torch.equal(draw(1, "a"), draw(2, "a"))
    assert not torch.equal(draw(1, "a"), draw(1, "b"))


def test_training_draws_are_standard_over_positions():
    noise = sample_noise(0, range(2000), (2000, 16))
    torch.testing.assert_close(torch.cov(noise.T), torch.eye(16), rtol=0, atol=0.12)
    uniform = sample_uniform(0, range(20_000)).sort().values
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    assert (uniform - grid).abs().max() < 0.015  # Kolmogorov-Smirnov at far below one in a thousand
    assert uniform[0] > 0
    assert uniform[-1] < 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SeededNoise([-1]), r"seeds must be from 0 to 2⁶⁴ - 1, got \(-1,\)"),
        (lambda: BrownianNoise([2**64]), "seeds must be from 0 to 2⁶⁴ - 1"),
        (
            lambda: SeededNoise([1, 2])((3, 4)),
            r"noise for 2 samples must have that batch, got \(3, 4\)",
        ),
        (
            lambda: BrownianNoise([1])((2, 4), (1.0, 0.5)),
            "noise for 1 samples must have that batch",
        ),
        (lambda: BrownianNoise([1])((1, 4)), "must join two times in 0 to 1, some .* got None"),
        (lambda: BrownianNoise([1])((1, 4), (0.5, 0.5)), "must join two times in 0 to 1"),
        (lambda: BrownianNoise([1])((1, 4), (1.5, 0.5)), "must join two times in 0 to 1"),
        (
            lambda: BrownianNoise([1])((1, 4), (0.9, 0.899999)),
            "must join two times .* some 1/30000 of them apart",
        ),
        (lambda: sample_noise(0, [1, 2], (3, 4)), "noise for 2 samples must have that batch"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BadInput, match=message):
        make()
