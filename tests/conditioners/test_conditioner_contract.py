"""The contract of conditioners, tested for each file of the folder."""

from importlib import import_module

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from safelight.config import Slot, read
from safelight.errors import BadInput
from safelight.types.networks import Condition, Conditioner, Prompt

CONFIGS = {
    "text": {"vocabulary": 300, "length": 16, "width": 16, "depth": 2, "heads": 2},
    "label": {"classes": 4, "width": 16},
    "segments": {"classes": 3, "channels": 2, "size": [8, 4]},
    "text-encoders": {
        "encoders": [
            {
                "network": {"kind": "clip", "width": 8, "depth": 2, "heads": 2, "hidden": 16},
                "pooled": "plain",
            }
        ]
    },
}
CONFIGS["joined"] = {
    "parts": {
        "caption": {"conditioner": {"kind": "text", **CONFIGS["text"]}},
        "map": {"conditioner": {"kind": "segments", **CONFIGS["segments"]}},
    }
}
READS = {
    "text": ["text"],
    "label": ["label"],
    "segments": ["segments"],
    "text-encoders": ["text"],
    "joined": ["text", "segments"],
}
"""The names of what is read, as ``null_condition`` takes them."""
FITTED = ["text", "label", "joined"]  # the others need not be fitted
MAPS = {word: torch.full((8, 4), number) for number, word in enumerate(("fox", "owl", "bear"))}
TRAINING = [
    Prompt(f"a {word} in the woods", {"label": word, "segments": MAPS[word]}) for word in MAPS
]
PROMPTS = [
    *TRAINING[:2],
    Prompt("a bear and another bear, both of them in the deep woods", TRAINING[2].given),
]


def test_every_file_of_the_folder_has_a_small_config_here():
    files = set(Slot("conditioners").kinds())
    assert files - {"unconditional"} == set(CONFIGS), (
        "add a small config to CONFIGS for each conditioner, so that its contract is tested"
    )


def fresh(kind: str) -> nn.Module:
    return read(
        import_module(f"safelight.conditioners.{kind.replace('-', '_')}").Config, CONFIGS[kind]
    ).build()


@pytest.fixture(params=CONFIGS)
def kind(request):
    return request.param


@pytest.fixture
def conditioner(kind):
    torch.manual_seed(0)
    conditioner = fresh(kind).double()
    conditioner.fit(TRAINING)
    return conditioner


def parts(condition: Condition, row: int) -> list[torch.Tensor]:
    """The condition of one sample, without padding."""
    tokens = (
        []
        if condition.tokens is None
        else [condition.tokens.values[row][condition.tokens.mask[row]]]
    )
    return tokens + [one[row] for one in (condition.vector, condition.channels) if one is not None]


def close(one: list[torch.Tensor], other: list[torch.Tensor], atol: float = 1e-6) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a, b, atol=atol)
        for a, b in zip(one, other, strict=True)
    )


def test_conditions_of_prompts_differ_from_each_other_and_from_the_null_condition(
    conditioner, kind
):
    assert isinstance(conditioner, Conditioner)
    conditions = conditioner(PROMPTS)
    null = conditioner.null_condition(PROMPTS)
    for row in range(len(PROMPTS)):
        assert parts(conditions, row)
        assert not close(parts(conditions, row), parts(null, row), atol=1e-3)
        assert not close(parts(conditions, row), parts(conditions, row - 1), atol=1e-3)
        assert close(parts(null, row), parts(conditioner([Prompt()]), 0))


def test_only_what_is_named_becomes_null(conditioner, kind):
    conditions, null, kept = (
        conditioner(PROMPTS),
        conditioner.null_condition(PROMPTS, READS[kind]),
        conditioner.null_condition(PROMPTS, []),
    )
    for row in range(len(PROMPTS)):
        assert close(parts(kept, row), parts(conditions, row))
        assert close(parts(null, row), parts(conditioner.null_condition(PROMPTS), row))


def test_a_condition_does_not_depend_on_its_batch(conditioner):
    together = conditioner(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        assert close(parts(conditioner([prompt]), 0), parts(together, row))


@pytest.mark.parametrize("kind", FITTED)
def test_calling_before_fitting_says_what_to_do(kind):
    with pytest.raises(BadInput, match=r"train it on .* or load its weights"):
        fresh(kind)(PROMPTS)


@pytest.mark.parametrize("kind", FITTED)
def test_fitting_does_not_depend_on_order_or_repetition(conditioner, kind):
    again = fresh(kind)
    again.fit(reversed(TRAINING * 2))
    state = again.state_dict()
    extra = [name for name in state if name.endswith("_extra_state")]
    assert extra
    assert all(torch.equal(conditioner.state_dict()[name], state[name]) for name in extra)


def test_its_whole_state_survives_safetensors(conditioner, kind):
    other = fresh(kind).double()
    other.load_state_dict(load(save(conditioner.state_dict())))
    for row in range(len(PROMPTS)):
        assert close(parts(other(PROMPTS), row), parts(conditioner(PROMPTS), row), atol=0)


def test_a_gradient_reaches_the_parameters(conditioner):
    condition = conditioner(PROMPTS)
    sum(part.square().sum() for row in range(3) for part in parts(condition, row)).backward()
    assert [
        name
        for name, p in conditioner.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []
