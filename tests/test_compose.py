"""Several prompts in one picture: what each of them is given of it."""

import pytest
import torch

from making import tiny_model
from safelight import Compose, Settings, TextToImage
from safelight.diffusion.noise import SeededNoise
from safelight.errors import BadInput
from safelight.pipeline import steps


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def shares(model, *words, count=1):
    return (
        Compose(*words, width=32, height=24)
        .start(model.complete(), SeededNoise(range(count)), count)
        .weighted_prompts
    )


def made(model, task, **changes):
    *_, last = steps(model, task, Settings(**{"steps": 2, "guidance": 5.0, "count": 2, **changes}))
    return last.noisy


def test_prompts_everywhere_count_by_their_weights(model):
    found = shares(model, "a red square | a blue circle", "everywhere", "1,-0.25", count=3)
    assert [[prompt.text for prompt in share.prompts] for share in found] == [
        ["a red square"] * 3,
        ["a blue circle"] * 3,
    ]
    assert [share.weight for share in found] == [1.0, -0.25]
    assert [share.region for share in found] == [None, None]


@pytest.mark.parametrize(("place", "axis"), [("columns", -1), ("rows", -2)])
def test_stripes_cover_the_picture_and_fade_into_each_other(model, place, axis):
    stripes = [share.region.expand(12, 16) for share in shares(model, "a | b | c", place)]
    torch.testing.assert_close(sum(stripes), torch.ones(12, 16))
    side = stripes[0].shape[axis]
    for index, stripe in enumerate(stripes):
        along = stripe.transpose(axis, -1)[0]
        assert along[int((index + 0.5) * side / 3)] == 1
        assert along[int(((index + 1) % 3 + 0.5) * side / 3)] == 0
        assert torch.equal(
            stripe.transpose(axis, -1), along.expand(*stripe.transpose(axis, -1).shape)
        )


def test_each_place_follows_its_prompt(model):
    one = {"steps": 1, "sampler": "euler"}
    both = made(model, Compose("a red square | a blue circle", "columns"), **one)
    red, blue = (
        made(model, TextToImage(text), **one) for text in ("a red square", "a blue circle")
    )
    torch.testing.assert_close(both[..., :6], red[..., :6], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[..., -6:], blue[..., -6:], rtol=1e-4, atol=1e-4)
    assert (red - blue).abs().max() > 0.1


def test_one_prompt_or_twice_the_same_is_that_prompt(model):
    wanted = made(model, TextToImage("a red square", negative="blue"))
    for prompts, place in (("a red square", "rows"), ("a red square|a red square", "columns")):
        found = made(model, Compose(prompts, place, negative="blue"))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a | b", "column"), "unknown place 'column'; did you mean 'columns'"),
        (("a | b", "rows", "1"), "weights: wanted one for each of the 2 prompts, got 1: '1'"),
        (("a | b", "rows", "1,x"), "weights: wanted numbers such as 1,0.5, got '1,x'"),
    ],
)
def test_what_cannot_be_composed_is_refused(words, message):
    with pytest.raises(BadInput, match=message):
        Compose(*words)


@pytest.mark.parametrize("weights", ["1,-1", "1,nan"])
def test_weights_that_leave_nothing_are_refused_before_the_first_step(model, weights):
    with pytest.raises(BadInput, match="weight"):
        next(steps(model, Compose("a | b", weights=weights)))


def test_the_size_is_checked_as_for_one_prompt(model):
    with pytest.raises(BadInput, match="width: wanted 1 to 8192 pixels, got 0"):
        Compose("a | b", width=0)
    with pytest.raises(BadInput, match="multiples of 8, got 33×32"):
        next(steps(model, Compose("a | b", width=33, height=32)))
