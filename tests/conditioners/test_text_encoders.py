"""Text encoders of model families: equal to recordings, chunk by chunk, weight by weight."""

import json
import re
import time
import warnings

import pytest
import torch
from torch import nn

from recorded import Recording, difference, error
from safelight.conditioners._encoder import EncoderConfig
from safelight.conditioners.text_encoders import Config, TextEncoders
from safelight.errors import BadInput
from safelight.layouts.text_encoder import clip as transformers_clip
from safelight.layouts.text_encoder import openclip
from safelight.layouts.text_encoder import t5 as transformers_t5
from safelight.layouts.text_families import joined
from safelight.nn.embeddings import sinusoidal
from safelight.nn.text_models import clip, t5
from safelight.prompting.prompts import prompt_at, split_prompt
from safelight.types.networks import Prompt

SMALL = clip.Config(width=8, depth=2, heads=2, hidden=16, vocabulary=49_408, projection=6)
OTHER = clip.Config(width=12, depth=2, heads=2, hidden=16, vocabulary=49_408, projection=10)
LONG = "a red fox in the snow, " * 20  # 140 pieces


def small(family="sd1", *networks: object, **changes: object) -> TextEncoders:
    torch.manual_seed(0)
    config = joined(family, networks or [SMALL])
    return Config(**{**vars(config), **changes}).build().eval()


def encoded(conditioner, text, **given: object):
    with torch.no_grad():
        return conditioner([Prompt(text, given)])


def load(conditioner, number, module, weights, said):
    """Fill one tower of a conditioner from a file of another layout."""
    all_layouts = [
        one
        for one in module.LAYOUTS
        if one.recognises({key: tuple(v.shape) for key, v in weights.items()})
    ]
    network = conditioner.encoders[number].network
    ours = dict(all_layouts[0].table(network.config).to_ours(weights, network.state_dict(), "it"))
    network.load_state_dict(ours)


def folder(family, number_of_towers):
    """The conditioner of a recorded diffusers folder."""
    recording, names = Recording("diffusers-folders"), ["", "_2", "_3"][:number_of_towers]
    configs, files, words = [], [], []
    for name in names:
        place = recording.file(f"{family}/text_encoder{name}")
        said = json.loads((place / "config.json").read_text())
        file = recording.weights(
            next(str(one.relative_to(place.parents[1])) for one in place.glob("*.safetensors"))
        )
        module = transformers_t5 if said["model_type"] == "t5" else transformers_clip
        shapes = {key: tuple(one.shape) for key, one in file.items()}
        (layout,) = [one for one in module.LAYOUTS if one.recognises(shapes)]
        configs.append(layout.config(shapes, said))
        files.append((module, file))
        words.append(
            {
                one.name: one.read_bytes()
                for one in recording.file(f"{family}/tokenizer{name}").iterdir()
            }
        )
    config = joined("sd1" if family == "sd" else family, configs)
    towers = tuple(
        EncoderConfig(**{**vars(one), "length": 12} if one.tokenizer == "t5" else vars(one))
        for one in config.encoders
    )
    conditioner = Config(**{**vars(config), "encoders": towers}).build().eval()
    for number, (module, file) in enumerate(files):
        load(conditioner, number, module, file, {})
        conditioner.encoders[number].tokenizer.load_files(words[number], family)
    return conditioner, recording


@pytest.mark.parametrize(("family", "towers"), [("sd", 1), ("sdxl", 2), ("sd3", 3), ("flux", 2)])
@torch.no_grad()
def test_prompts_become_what_the_pipelines_made_of_them(family, towers):
    conditioner, recording = folder(family, towers)
    facts, outputs = recording.facts["config"], recording.outputs
    prompts = [Prompt(text) for text in facts["prompts"]]
    told, negative = conditioner(prompts), conditioner([Prompt(facts["negative_prompt"])] * 2)
    assert told.tokens.mask.all()
    tokens = outputs["sd.text" if family == "sd" else f"{family}.prompt_embeds"]
    assert error(told.tokens.values, tokens) < 1e-4
    if family == "sd":
        assert told.vector is None
        return
    pooled = outputs[f"{family}.pooled"]
    assert error(told.vector[:, : pooled.shape[1]], pooled) < 1e-4
    if family != "flux":
        assert error(negative.tokens.values, outputs[f"{family}.negative_prompt_embeds"]) < 1e-4
        assert (
            error(negative.vector[:, : pooled.shape[1]], outputs[f"{family}.negative_pooled"])
            < 1e-4
        )


@torch.no_grad()
def test_sdxl_hears_sizes_behind_the_pooled_vector():
    recording = Recording("sdxl")
    inputs, outputs = recording.inputs, recording.outputs
    file = recording.weights("model.safetensors")
    left, right = (
        {key.removeprefix(prefix): one for key, one in file.items() if key.startswith(prefix)}
        for prefix in ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
    )
    shapes = [{key: tuple(one.shape) for key, one in part.items()} for part in (left, right)]
    networks = [
        transformers_clip.LAYOUTS[0].config(shapes[0], {"num_attention_heads": 2}),
        openclip.LAYOUTS[0].config(shapes[1], {"text_head_width": 8}),
    ]
    conditioner = Config(**{**vars(joined("sdxl", networks)), "frequencies": 32}).build()
    load(conditioner, 0, transformers_clip, left, {})
    load(conditioner, 1, openclip, right, {})
    given = [
        {key: tuple(inputs[name][row].tolist()) for key, name in SIZES.items()} for row in range(2)
    ]
    for which, where in (("", ""), ("uncond_", "uncond.")):
        first, _ = conditioner.encoders[0].states(inputs[f"{which}ids_l"])
        second, pooled = conditioner.encoders[1].states(inputs[f"{which}ids_g"])
        assert error(torch.cat([first, second], dim=-1), outputs[f"{where}crossattn"]) < 1e-4
        vector = conditioner.vector([pooled], [Prompt("", each) for each in given])
        assert error(vector, outputs[f"{where}vector"]) < 1e-4


SIZES = {"original_size": "original_size", "crop": "crop_top_left", "target_size": "target_size"}


def test_sizes_come_from_the_prompt_the_picture_or_the_model():
    conditioner = small("sdxl", SMALL, OTHER)
    assert conditioner.numbers(Prompt()) == [1024, 1024, 0, 0, 1024, 1024]
    assert conditioner.numbers(Prompt("", {"picture_size": (512, 768)})) == [
        512,
        768,
        0,
        0,
        512,
        768,
    ]
    given = {"picture_size": (512, 768), "original_size": [64, 96], "crop": (1, 2)}
    assert conditioner.numbers(Prompt("", given)) == [64, 96, 1, 2, 512, 768]
    refiner = small("sdxl-refiner")
    assert refiner.numbers(Prompt())[-1] == 6.0
    assert refiner.numbers(Prompt("", {"negative": True}))[-1] == 2.5
    with pytest.raises(BadInput, match="crop: wanted two numbers, got 3"):
        conditioner.numbers(Prompt("", {"crop": 3}))
    vector = refiner.null_condition([Prompt("", {"picture_size": (8, 16)})]).vector[0]
    waves = sinusoidal(torch.tensor([8.0, 16, 0, 0, 2.5]), 256).flatten()
    torch.testing.assert_close(vector[6:], waves)


def test_sdxl_without_a_negative_prompt_points_away_from_zeros():
    conditioner = small("sdxl", SMALL, OTHER)
    with torch.no_grad():
        nothing = conditioner.null_condition([Prompt("a", {"picture_size": (8, 16)})])
        empty = conditioner([Prompt("", {"picture_size": (8, 16)})])
    assert not nothing.tokens.values.any()
    assert nothing.tokens.mask.all()
    assert not nothing.vector[:, :10].any()
    assert torch.equal(nothing.vector[:, 10:], empty.vector[:, 10:])
    assert empty.tokens.values.any()


def test_long_prompts_are_read_page_by_page():
    conditioner = small("sdxl", SMALL, OTHER)
    told = encoded(conditioner, LONG)
    assert told.tokens.values.shape == (1, 2 * 77, 20)
    first = encoded(conditioner, "a red fox in the snow, " * 11).tokens.values[:, :77]
    assert torch.equal(told.tokens.values[:, :77], first)
    assert difference(told.tokens.values[:, 77:], first) > 0.1
    with torch.no_grad():
        both = conditioner([Prompt("short"), Prompt(LONG)])
    assert both.tokens.mask.sum(dim=1).tolist() == [77, 154]
    assert error(both.tokens.values[0, :77], encoded(conditioner, "short").tokens.values[0]) < 1e-5
    assert not both.tokens.values[0, 77:].any()
    assert encoded(conditioner, "x " * 10_000).tokens.values.shape[1] == 8 * 77


def test_what_is_too_long_is_said_in_its_own_words():
    conditioner = small(
        "sd3", SMALL, OTHER, t5.Config(width=8, depth=1, heads=2, head_width=4, hidden=16)
    )
    assert conditioner.truncated(Prompt("a red fox in the snow")) == []
    middling = Prompt("a red fox, " * 55 + "and an owl")  # within the pages of CLIP
    (said,) = conditioner.truncated(middling)
    assert re.fullmatch(
        r"the T5 text encoder reads 255 tokens of a prompt; cut off is: '.*fox, and an owl'", said
    )
    assert len(conditioner.truncated(Prompt("a red fox, " * 300))) == 3
    weighted = Prompt("(a red fox:1.2) " * 70 + "and an owl", {"emphasis": "mean"})
    assert len(conditioner.truncated(weighted)) == 1
    (said,) = small(
        "flux", SMALL, t5.Config(width=8, depth=1, heads=2, head_width=4, hidden=16)
    ).truncated(Prompt("ab " * 600))
    assert said.startswith(
        "the T5 text encoder reads 511 tokens"
    )  # what CLIP leaves out of its vector, T5 has read
    begun = time.process_time()
    assert (
        "cut off" in conditioner.truncated(Prompt("([" * 500_000 + "fox", {"emphasis": "mean"}))[0]
    )
    assert time.process_time() - begun < 20


def test_breaks_and_weights_are_read_when_asked_for():
    conditioner = small()
    text = "a (fox:1.5) BREAK snow"
    assert encoded(conditioner, text).tokens.values.shape[1] == 77
    parted = encoded(conditioner, text, emphasis="empty").tokens.values
    assert parted.shape[1] == 2 * 77
    plain = encoded(conditioner, "a fox").tokens.values
    empty = encoded(conditioner, "").tokens.values
    fox = slice(2, 3)  # begin, a, fox
    torch.testing.assert_close(parted[:, fox], empty[:, fox] + 1.5 * (plain - empty)[:, fox])
    torch.testing.assert_close(parted[:, :2], plain[:, :2])
    torch.testing.assert_close(parted[:, 77:], encoded(conditioner, "snow").tokens.values)
    with pytest.raises(BadInput, match="unknown emphasis 'men'; did you mean 'mean'"):
        encoded(conditioner, "a", emphasis="men")
    composed = split_prompt(Prompt("a AND b :2", {"emphasis": "mean"}))
    assert [(prompt.text, weight) for prompt, weight in composed] == [("a", 1.0), ("b", 2.0)]
    assert len(split_prompt(Prompt("a AND b :2"))) == 1


@torch.no_grad()
def test_the_web_ui_scales_and_gives_the_page_its_mean_back():
    conditioner, plainly = small(), small()
    plain = encoded(conditioner, "a fox").tokens.values
    scales = torch.ones(1, 77, 1)
    scales[:, 2] = 1.5
    scaled = plain * scales
    want = scaled * (plain.mean() / scaled.mean())
    torch.testing.assert_close(
        encoded(conditioner, "a (fox:1.5)", emphasis="mean").tokens.values, want
    )
    letters = encoded(plainly, "a (fox)").tokens.values
    torch.testing.assert_close(
        encoded(conditioner, "a \\(fox\\)", emphasis="mean").tokens.values, letters
    )
    torch.testing.assert_close(
        encoded(conditioner, "a (fox)", emphasis="none").tokens.values, letters
    )
    both = conditioner(
        [Prompt("a (fox:1.5)", {"emphasis": "mean"}), Prompt("a (fox:1.5)")]
    ).tokens.values
    torch.testing.assert_close(both[:1], want)
    assert difference(both[1:], want) > 0.01


def test_a_prompt_may_change_with_the_steps():
    conditioner = small()
    scheduled = Prompt("[a fox:an owl:0.5]", {"emphasis": "mean"})
    texts = [prompt_at(scheduled, step, 10).text for step in (0, 4, 5, 9)]
    assert texts == ["a fox", "a fox", "an owl", "an owl"]
    assert prompt_at(scheduled, 9, 10).given is scheduled.given
    for constant in (Prompt(scheduled.text), Prompt("a (fox:1.3)", scheduled.given)):
        assert prompt_at(constant, 5, 10) is constant
    first = encoded(conditioner, scheduled.text, emphasis="mean").tokens.values
    torch.testing.assert_close(first, encoded(conditioner, "a fox").tokens.values)


def test_pictures_of_one_prompt_are_read_once():
    conditioner = small()
    seen = []
    conditioner.encoders[0].network.register_forward_hook(
        lambda module, args, answer: seen.append(len(args[0]))
    )
    told = conditioner([Prompt("a"), Prompt("b"), Prompt("a")])
    assert seen == [2]
    assert torch.equal(told.tokens.values[0], told.tokens.values[2])


def test_sd3_reads_without_t5_and_says_so_once():
    conditioner = small("sd3", SMALL, OTHER, None)
    with pytest.warns(
        UserWarning, match="this model runs without its T5 text encoder: its tokens are zeros"
    ):
        told = encoded(conditioner, "a fox")
    assert told.tokens.values.shape == (1, 77 + 256, 4096)
    assert not told.tokens.values[:, 77:].any()
    assert not told.tokens.values[:, :77, 20:].any()
    assert told.vector.shape == (1, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded(conditioner, "an owl")


def test_nothing_of_transformers_is_needed_and_nothing_is_built_twice():
    with torch.device("meta"):
        conditioner = joined("flux", [clip.Config(), t5.Config()]).build()
    assert sum(one.numel() for one in conditioner.parameters()) == 123_060_480 + 4_762_310_656
    assert all(one.is_meta for one in conditioner.parameters())
    assert [name for name, _ in conditioner.named_buffers()] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": 78}, "a length of 78 tokens is more than the 77 that the network can read"),
        ({"skip": 12}, "a skip within 12 blocks"),
        ({"pooled": "projected"}, "a projected vector needs a text encoder with a projection"),
        (
            {"network": t5.Config(), "tokenizer": "t5", "pooled": "plain"},
            "a vector is pooled from a CLIP text encoder",
        ),
    ],
)
def test_a_tower_that_cannot_work_is_refused(given, message):
    with pytest.raises(BadInput, match=message):
        EncoderConfig(**given)


def test_a_config_that_cannot_work_is_refused():
    with pytest.raises(BadInput, match="at least one text encoder must have a group"):
        Config(encoders=(EncoderConfig(group=None),))
    with pytest.raises(BadInput, match="cannot be divided among 5 heads"):
        clip.Config(heads=5)


def test_each_tower_takes_the_vectors_of_its_width():
    conditioner = small("sdxl", SMALL, OTHER)
    conditioner.add_embedding("owl", [torch.randn(2, 8), torch.randn(1, 12)])
    conditioner.add_embedding("bear", [torch.randn(1, 12)])
    ids = [reader.chunks([[("owl bear", 1.0)]])[0].ids for reader in conditioner.encoders]
    assert ids[0][1:3] == (49_408, 49_409)
    assert ids[0][3] < 49_406
    assert ids[1][1:3] == (49_408, 49_409)
    assert ids[1][3] == 49_407
    assert isinstance(conditioner, nn.Module)
