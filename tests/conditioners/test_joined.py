"""Several conditioners as one: equal to conditions combined by hand, with dropout for each part."""

import json
import math
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from making import tiny_model
from safelight import load, save
from safelight.conditioners import joined, label, segments, text
from safelight.conditioners.joined import Config, Part, combine
from safelight.config import Slot, dump, override, read
from safelight.errors import BadInput
from safelight.training.objectives.denoising import Denoising
from safelight.training.recipe import Recipe
from safelight.types.networks import Condition, Conditioner, DropsParts, Prompt, Tokens

TEXT = text.Config(vocabulary=300, length=16, width=16, depth=1, heads=2)
CLASSES = label.Config(classes=3, width=16)
MAPS = segments.Config(classes=3, channels=2, size=(8, 4))
ALL = Config({"caption": Part(TEXT, 0.2), "kind": Part(CLASSES, 0.4), "map": Part(MAPS, 0.0)})
PROMPTS = [
    Prompt(f"a {name}", {"label": name, "segments": torch.full((8, 4), row)})
    for row, name in enumerate(("fox", "owl", "bear"))
]


@pytest.fixture
def conditioner():
    torch.manual_seed(0)
    built = ALL.build()
    built.fit(PROMPTS)
    return built


def equal(one: Condition, other: Condition) -> bool:
    assert one.tokens is not None
    assert other.tokens is not None
    return (
        torch.equal(one.tokens.values, other.tokens.values)
        and torch.equal(one.tokens.mask, other.tokens.mask)
        and torch.equal(one.vector, other.vector)
        and torch.equal(one.channels, other.channels)
    )


def by_hand(caption: Condition, kind: Condition, channels: Condition) -> Condition:
    vector = caption.vector + kind.vector
    return Condition(tokens=caption.tokens, vector=vector, channels=channels.channels)


@torch.no_grad()
def test_it_equals_the_conditions_of_its_parts_combined_by_hand(conditioner):
    assert isinstance(conditioner, Conditioner)
    caption, kind, channels = conditioner.parts.values()
    want = by_hand(caption(PROMPTS), kind(PROMPTS), channels(PROMPTS))
    assert equal(conditioner(PROMPTS), want)


def test_tokens_and_channels_are_concatenated_and_the_rest_is_put_together():
    values, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False]] * 2)
    first = Condition(
        tokens=Tokens(values, mask),
        channels=torch.randn(2, 1, 5, 5),
        scalars={"a": torch.ones(2)},
        references=(torch.zeros(2, 1),),
    )
    second = Condition(
        tokens=Tokens(2 * values[:, :1], mask[:, :1]),
        channels=torch.randn(2, 3, 5, 5),
        scalars={"b": torch.zeros(2)},
        references=(torch.ones(2, 1),),
    )
    combined = combine({"first": first, "second": second})
    assert torch.equal(combined.tokens.values, torch.cat([values, 2 * values[:, :1]], dim=1))
    assert combined.tokens.mask.tolist() == [[True, True, False, True]] * 2
    assert torch.equal(combined.channels[:, :1], first.channels)
    assert torch.equal(combined.channels[:, 1:], second.channels)
    assert combined.scalars.keys() == {"a", "b"}
    assert combined.references == (*first.references, *second.references)
    assert combined.vector is None


@torch.no_grad()
@pytest.mark.parametrize("only", [["text"], ["caption"]])
def test_only_the_named_part_becomes_null(conditioner, only):
    caption, kind, channels = conditioner.parts.values()
    want = by_hand(caption.null_condition(PROMPTS), kind(PROMPTS), channels(PROMPTS))
    assert equal(conditioner.null_condition(PROMPTS, only), want)
    null = by_hand(*(part.null_condition(PROMPTS) for part in (caption, kind, channels)))
    assert equal(conditioner.null_condition(PROMPTS), null)
    assert equal(conditioner.null_condition(PROMPTS, []), conditioner(PROMPTS))


@torch.no_grad()
def test_a_caption_is_not_taken_for_a_class(conditioner):
    caption, kind, _ = conditioner.parts.values()
    got = conditioner([Prompt("a fox")])
    null = kind.null_condition([Prompt()]).vector
    assert torch.equal(got.vector, caption([Prompt("a fox")]).vector + null)
    alone = Config({"kind": Part(CLASSES)}).build()
    alone.fit(PROMPTS)
    assert torch.equal(alone([Prompt("fox")]).vector, alone.parts["kind"].embedding.weight[[1]])


@torch.no_grad()
def test_dropped_samples_have_the_null_condition_of_that_part_alone(conditioner):
    caption, kind, channels = conditioner.parts.values()
    first, none = torch.tensor([True, False, False]), torch.zeros(3, dtype=torch.bool)
    got = conditioner.with_dropped(PROMPTS, {"caption": none, "kind": first, "map": none})
    want = by_hand(caption(PROMPTS), kind(PROMPTS), channels(PROMPTS))
    assert torch.equal(got.tokens.values, want.tokens.values)
    assert torch.equal(got.vector[1:], want.vector[1:])
    null = kind.null_condition(PROMPTS).vector
    assert torch.equal(got.vector[0], (caption(PROMPTS).vector + null)[0])


class Recording(torch.nn.Module):
    """A conditioner of parts that records what training drops."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = {"caption": 0.2, "kind": 0.4, "map": 0.0}
        self.dropped = {}

    def forward(self, prompts):
        raise AssertionError("training must ask for the condition with parts dropped")

    def null_condition(self, prompts, only=None):
        return Condition()

    def fit(self, prompts):
        """Nothing to fit."""

    def with_dropped(self, prompts, dropped):
        self.dropped = dropped
        return Condition()


def test_training_drops_each_part_as_often_as_configured():
    """Within four standard deviations of a binomial count, and independently of other parts."""
    count, recording = 20_000, Recording()
    assert isinstance(recording, DropsParts)
    objective = object.__new__(Denoising)
    objective.conditioner = recording
    objective.context = type("Context", (), {"seed": 3})()
    batch = type("Batch", (), {"prompts": [Prompt()] * count, "positions": list(range(count))})()
    assert objective._condition(batch) is not None
    dropped = recording.dropped
    for name, rate in recording.dropout.items():
        bound = 4 * math.sqrt(count * rate * (1 - rate))
        assert abs(int(dropped[name].sum()) - count * rate) <= bound
    both = int((dropped["caption"] & dropped["kind"]).sum())
    assert abs(both - count * 0.08) <= 4 * math.sqrt(count * 0.08 * 0.92)


@torch.no_grad()
def test_a_model_with_it_is_saved_and_loaded(conditioner, tmp_path):
    save(replace(tiny_model(), conditioner=conditioner), tmp_path / "model")
    written = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert list(written["conditioner"]["parts"]) == ["caption", "kind", "map"]
    again = load(tmp_path / "model", "cpu", "fp32").conditioner
    assert again.config == conditioner.config
    assert equal(again(PROMPTS), conditioner(PROMPTS))


def test_its_options_are_checked_and_can_be_changed_by_name():
    slot = Slot("conditioners")
    assert slot.read(slot.write(ALL)) == ALL
    changed = override(Config, ALL, ["parts.kind.dropout=0.5"])
    assert changed.parts["kind"] == Part(CLASSES, 0.5)
    with pytest.raises(BadInput, match=r"unknown key in parts\.caption: 'dropot'"):
        read(Config, {"parts": {"caption": {"conditioner": "text", "dropot": 0.1}}})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"a": Part(TEXT), "b": Part(replace(CLASSES, width=8))},
            "a makes vectors of width 16, b makes vectors of width 8: their vectors are added",
        ),
        (
            {"a": Part(TEXT), "b": Part(replace(CLASSES, width=8, as_token=True))},
            "a makes tokens of width 16, b makes tokens of width 8: their tokens are concatenated",
        ),
        (
            {"a": Part(MAPS), "b": Part(replace(MAPS, halvings=1))},
            "a makes channels of size 2×1, b makes channels of size 4×2",
        ),
        (
            {"a": Part(replace(CLASSES, width=0)), "b": Part(replace(CLASSES, width=0))},
            "b and another conditioner both make the scalar 'label'",
        ),
    ],
)
def test_conditions_that_cannot_be_combined_are_refused(parts, message):
    conditioner = Config(parts).build()
    conditioner.fit(PROMPTS)
    with pytest.raises(BadInput, match=message):
        conditioner(PROMPTS)


def test_configurations_that_cannot_work_are_refused():
    with pytest.raises(BadInput, match="at least one part"):
        Config({})
    with pytest.raises(BadInput, match="list all conditioners in one"):
        Config({"a": Part(ALL)})
    with pytest.raises(BadInput, match=r"dropout must be from 0 to 1, not 1\.5"):
        Part(TEXT, 1.5)
    with pytest.raises(BadInput, match="must be letters, digits and underscores, not 'a b'"):
        Config({"a b": Part(TEXT)})
    with pytest.raises(BadInput, match="cannot be called 'type'"):
        Config({"type": Part(TEXT)}).build()


def test_the_recipe_on_the_page_is_a_recipe():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (snippet,) = (
        one for one in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "joined" in one
    )
    recipe = read(Recipe, tomllib.loads(snippet))
    parts = recipe.objective.conditioner.parts
    assert isinstance(recipe.objective.conditioner, joined.Config)
    assert {name: part.dropout for name, part in parts.items()} == {"caption": 0.1, "category": 0.2}
    assert dump(recipe)["objective"]["conditioner"]["kind"] == "joined"
