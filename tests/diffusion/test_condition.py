"""Conditions: joined, repeated, chosen from and refused, way by way."""

from dataclasses import replace

import pytest
import torch

from safelight.diffusion.condition import choose, inputs, refuse, repeat, stack
from safelight.errors import BadInput
from safelight.types.networks import Condition, Tokens

NAMES = {"tokens", "streams", "vector", "scalars", "channels", "references", "residuals"}


def tokens(b, n, start, projected=True):
    values = start + torch.arange(b * n * 2.0).reshape(b, n, 2)
    return Tokens(
        values,
        torch.ones(b, n, dtype=torch.bool),
        (values * 10, values.sum(-1)) if projected else (),
    )


def full(b, start):
    """A condition of every way in, all of whose numbers tell where they came from."""
    row = start + torch.arange(float(b))
    return Condition(
        tokens=tokens(b, 3, start),
        streams=(tokens(b, 2, start), tokens(b, 1, start, projected=False)),
        vector=row[:, None].expand(b, 4),
        scalars={"scale": row},
        channels=row.reshape(b, 1, 1, 1).expand(b, 2, 3, 3),
        references=(row.reshape(b, 1, 1).expand(b, 2, 5),),
        residuals=(row[:, None], row[:, None] + 1),
    )


def leaves(condition):
    packs = [condition.tokens, *condition.streams]
    inner = [tensor for pack in packs for tensor in (pack.values, pack.mask, *pack.projected)]
    outer = [condition.vector, condition.scalars["scale"], condition.channels]
    return [*inner, *outer, *condition.references, *condition.residuals]


def same(condition, tensors):
    found = leaves(condition)
    return len(found) == len(tensors) and all(
        torch.equal(a, b) for a, b in zip(found, tensors, strict=True)
    )


FIRST, SECOND = full(2, 0.0), full(3, 100.0)


def test_stack_joins_every_way():
    pairs = zip(leaves(FIRST), leaves(SECOND), strict=True)
    assert same(stack([FIRST, SECOND]), [torch.cat(pair) for pair in pairs])
    assert stack([FIRST]) is FIRST


def test_stack_pads_tokens_and_masks_the_padding():
    short, long = (Condition(tokens=tokens(1, n, 1.0, projected=False)) for n in (1, 3))
    both = stack([short, long]).tokens
    assert both.mask.tolist() == [[True, False, False], [True, True, True]]
    assert torch.equal(both.values[0, :1], short.tokens.values[0])
    assert torch.equal(both.values[0, 1:], torch.zeros(2, 2))
    assert torch.equal(both.values[1], long.tokens.values[0])


def test_repeat_keeps_the_copies_of_a_sample_together():
    assert same(repeat(FIRST, 3), [leaf[[0, 0, 0, 1, 1, 1]] for leaf in leaves(FIRST)])


def test_choose_goes_sample_by_sample():
    other = full(2, 100.0)
    chosen = choose(torch.tensor([False, True]), FIRST, other)
    wanted = [torch.stack([b[0], a[1]]) for a, b in zip(leaves(FIRST), leaves(other), strict=True)]
    assert same(chosen, wanted)


def test_nothing_stays_nothing():
    for nothing in (stack([Condition(), Condition()]), repeat(Condition(), 2)):
        assert inputs(nothing) == frozenset()


def test_ways_names_what_is_open():
    assert inputs(FIRST) == NAMES
    assert inputs(Condition(vector=torch.zeros(1, 1))) == {"vector"}
    assert inputs(Condition(residuals=(torch.zeros(1),))) == {"residuals"}


def test_refuse_lets_pass_what_is_taken():
    refuse(FIRST, NAMES, "the network")
    refuse(Condition(), (), "the network")


@pytest.mark.parametrize(
    "other",
    [
        Condition(),
        Condition(vector=torch.zeros(1, 1), channels=torch.zeros(1, 1)),
        Condition(scalars={"time": torch.zeros(1)}),
    ],
)
def test_different_ways_cannot_be_joined(other):
    for one in (Condition(vector=torch.zeros(1, 1)), Condition(scalars={"scale": torch.zeros(1)})):
        for join in (lambda a, b: stack([a, b]), lambda a, b: choose(torch.tensor([True]), a, b)):
            with pytest.raises(
                BadInput, match=r"must have the same inputs, got .*: give all of them the same"
            ):
                join(one, other)


@pytest.mark.parametrize("way", ["streams", "references", "residuals"])
def test_different_counts_cannot_be_joined(way):
    one = tokens(1, 1, 0.0) if way == "streams" else torch.zeros(1, 1)
    with pytest.raises(BadInput, match="must have the same inputs"):
        stack([Condition(**{way: (one,)}), Condition(**{way: (one, one)})])


def test_prepared_tokens_are_padded_like_the_tokens_themselves():
    def prepared(n):
        return Condition(tokens=replace(tokens(1, n, 1.0), projected=(torch.ones(1, n, 2, 3),)))

    joined = stack([prepared(1), prepared(3)]).tokens
    assert joined.projected[0].shape == (2, 3, 2, 3)
    assert joined.projected[0][0, :, 0, 0].tolist() == [1, 0, 0]
    assert joined.mask.tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        (["vector", "tokens"], "the network takes tokens, vector, got channels, references"),
        ([], "the network takes no condition, got channels, references"),
    ],
)
def test_refuse_names_what_is_too_much(takes, message):
    condition = Condition(channels=torch.zeros(1, 1, 1), references=(torch.zeros(1, 1),))
    with pytest.raises(BadInput, match=message):
        refuse(condition, takes, "the network")
