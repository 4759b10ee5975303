"""What is the label table's own."""

import pytest
import torch

from safelight.conditioners.label import Config
from safelight.errors import BadInput
from safelight.types.networks import Prompt


def labelled(*names: object) -> list[Prompt]:
    return [Prompt(given={"label": name}) for name in names]


@pytest.fixture
def label():
    label = Config(classes=3, width=4).build()
    label.fit(labelled("forest", "beach", "forest"))
    return label


def test_the_label_comes_before_the_text_and_the_text_before_nothing(label):
    prompts = [
        Prompt("forest", {"label": "beach"}),
        Prompt("forest"),
        Prompt(),
        Prompt("forest", {"label": ""}),
    ]
    assert torch.equal(label(prompts).vector, label.embedding.weight[[0, 1, 3, 3]])


def test_an_unknown_name_suggests_the_nearest(label):
    with pytest.raises(BadInput, match="unknown class 'forrest'; did you mean 'forest'"):
        label([Prompt("forrest")])


def test_more_names_than_classes_are_refused_and_no_names_too():
    with pytest.raises(BadInput, match="4 labels, but there are 3 classes"):
        Config(classes=3).build().fit(labelled("a", "b", "c", "d"))
    with pytest.raises(BadInput, match="no picture has a label"):
        Config().build().fit([Prompt("a fox")])


def test_numbers_are_names(label):
    label.fit(labelled(3, 7))
    assert torch.equal(label([*labelled(7), Prompt("7")]).vector, label.embedding.weight[[1, 1]])


def test_a_config_without_classes_is_refused():
    with pytest.raises(BadInput, match="1 class or more, of width 0 or more, not 0 of 256"):
        Config(classes=0)


def test_numbered_classes_are_known_unlearned_and_width_0_tells_their_number():
    label = Config(classes=1000, width=0, numeric_labels=True).build()
    prompts = [Prompt("207"), *labelled(0, "999"), Prompt()]
    told = label(prompts)
    assert told.vector is None
    assert told.scalars["label"].tolist() == [207, 0, 999, 1000]
    assert label.null_condition(prompts).scalars["label"].tolist() == [1000] * 4
    label.fit(labelled(5, 7))
    assert label([Prompt("207")]).scalars["label"].tolist() == [207]
    assert not list(label.parameters())
    for wrong in ("1000", "-1", "fox"):
        with pytest.raises(BadInput, match="unknown class"):
            label([Prompt(wrong)])
        with pytest.raises(BadInput, match="unknown class"):
            label.fit(labelled(wrong))
