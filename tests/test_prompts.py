"""What a run tells its conditioner beside the text, and prompts that change on the way."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from making import tiny_model
from safelight import Settings, TextToImage
from safelight.conditioners import text_readers
from safelight.errors import BadInput
from safelight.pipeline import generate
from safelight.tasks.compose import Compose
from safelight.types.networks import Conditioner, Prompt


class Listening(nn.Module):
    """The conditioner of a model, which claims to read weights and records its prompts."""

    def __init__(self, inner: Conditioner) -> None:
        super().__init__()
        self.inner, self.asked, self.missing = inner, [], []

    def forward(self, prompts):
        self.asked += prompts
        return self.inner(prompts)

    def null_condition(self, prompts, only=None):
        self.missing += prompts
        return self.inner.null_condition(prompts, only)

    def fit(self, prompts):
        self.inner.fit(prompts)

    @property
    def reads_weights(self):
        return True

    def truncated(self, prompt):
        return []


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def listened(model, task, settings):
    listening = Listening(model.conditioner)
    (picture,) = generate(replace(model, conditioner=listening), task, settings)
    return listening, np.asarray(picture).astype(int)


def test_a_prompt_hears_the_size_of_its_picture_and_a_negative_that_it_is_one(model):
    task = TextToImage("a red square", "blue", width=32, height=16)
    listening, _ = listened(model, task, Settings(steps=1, guidance=3.0, emphasis="mean"))
    (prompt, negative) = listening.asked
    assert prompt.given == {"picture_size": (16, 32), "emphasis": "mean"}
    assert negative.given == {"picture_size": (16, 32), "emphasis": "mean", "negative": True}
    listening, _ = listened(model, replace(task, negative=""), Settings(steps=1, guidance=3.0))
    assert [one.given for one in listening.missing] == [{"picture_size": (16, 32)}]


def test_a_prompt_changes_when_its_step_comes(model):
    settings = Settings(steps=4, sampler="euler", guidance=2.0, seed=3, emphasis="mean")
    listening, changed = listened(model, TextToImage("[a red square:a blue circle:0.5]"), settings)
    assert [one.text for one in listening.asked] == ["a red square", "a blue circle"]
    listening, alternating = listened(model, TextToImage("[a red square|a blue circle]"), settings)
    assert [one.text for one in listening.asked] == ["a red square", "a blue circle"]
    _, first = listened(model, TextToImage("a red square"), settings)
    _, never = listened(model, TextToImage("[a red square:a blue circle:4]"), settings)
    assert np.array_equal(first, never)
    for one, other in ((changed, first), (alternating, first), (changed, alternating)):
        assert np.abs(one - other).max() > 0


def test_prompts_that_and_parts_are_composed(model):
    settings = Settings(steps=3, guidance=2.0, seed=3, count=1, emphasis="mean")
    listening, parted = listened(
        model, TextToImage("a red square AND a blue circle :0.5"), settings
    )
    assert [one.text for one in listening.asked] == ["a red square", "a blue circle"]
    _, composed_ = listened(
        model, Compose("a red square | a blue circle", weights="1,0.5"), settings
    )
    assert np.array_equal(parted, composed_)
    assert np.abs(parted - listened(model, TextToImage("a red square"), settings)[1]).max() > 0
    with pytest.raises(BadInput, match="weights must sum to more than 0"):
        listened(model, TextToImage("a red square AND a blue circle :-2"), settings)


def test_weights_are_refused_where_nobody_reads_them(model):
    with pytest.raises(BadInput, match="reads brackets as letters; leave emphasis out"):
        generate(model, TextToImage("a (red:1.3) square"), Settings(emphasis="mean"))
    with pytest.raises(BadInput, match="unknown emphasis 'men'; did you mean 'mean'"):
        Settings(emphasis="men")
    assert not any(reader.reads_weights for reader in text_readers(model.conditioner))
    assert Prompt("a").given == {}
