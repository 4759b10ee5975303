"""Text towers in the layouts of others: real lists of names, recordings, and there and back."""

import pytest
import torch

from recorded import Recording, difference, error, real_shapes
from safelight.checkpoints import read
from safelight.errors import BadInput
from safelight.layouts.key_mapping import Layout
from safelight.layouts.text_encoder import clip as transformers_clip
from safelight.layouts.text_encoder import openclip
from safelight.layouts.text_encoder import t5 as transformers_t5
from safelight.layouts.text_families import FAMILIES, cut, joined
from safelight.nn.text_models import clip, t5
from safelight.types.networks import Prompt

MODULES = (openclip, transformers_clip, transformers_t5)
REAL = {
    "real.CLIP-v1-SD": 123_060_480,
    "real.CLIP-v2-SD": 354_032_641,
    "real.CLIP-v2-WD": 340_387_840,
    "real.CLIP-XL-SD": 694_659_841,
    "sd15.text_encoder.transformers": 123_060_480,
    "sdxl.text_encoder_2.transformers": 694_659_840,
    "sd3.text_encoder_3-t5xxl.transformers": 4_762_310_656,
}


def only(shapes) -> Layout:
    (found,) = [one for module in MODULES for one in module.LAYOUTS if one.recognises(shapes)]
    return found


def filled(file, said):
    """The network with the weights of a file, and the file that its weights make again."""
    shapes = {key: tuple(one.shape) for key, one in file.items()}
    layout = only(shapes)
    config = layout.config(shapes, said)
    network, table = config.build(), layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), layout.name))
    network.load_state_dict(ours)
    return network, dict(table.to_theirs(ours))


def below(weights, prefix):
    return {key.removeprefix(prefix): one for key, one in weights.items() if key.startswith(prefix)}


@pytest.mark.parametrize("name", REAL)
def test_a_real_list_fits_with_nothing_missing_or_left_over(name):
    shapes = real_shapes(name)
    layout = only(shapes)
    config = layout.config(shapes, {})
    with torch.device("meta"):
        network = config.build()
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    table = layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), name))
    assert ours.keys() == network.state_dict().keys()
    assert sum(one.numel() for one in network.parameters()) == REAL[name]
    again = {key: tuple(one.shape) for key, one in table.to_theirs(ours)}
    assert again == {
        key: shape for key, shape in shapes.items() if not key.endswith("position_ids")
    }


TOWERS = [
    ("sd1", "model.safetensors", "cond_stage_model.transformer.", {"text_head_width": 4}),
    ("sd2-v", "model.safetensors", "cond_stage_model.model.", {"text_head_width": 10}),
    ("sdxl", "model.safetensors", "conditioner.embedders.0.transformer.", {"text_head_width": 8}),
    ("sdxl", "model.safetensors", "conditioner.embedders.1.model.", {"text_head_width": 8}),
    ("diffusers-folders", "flux/text_encoder/model.safetensors", "", {"text_head_width": 8}),
    ("diffusers-folders", "sd3/text_encoder_3/model.safetensors", "", {}),
]


@pytest.mark.parametrize(("folder", "name", "prefix", "said"), TOWERS)
def test_a_recorded_tower_comes_back_to_the_bit(folder, name, prefix, said):
    file = below(Recording(folder).weights(name), prefix)
    _, again = filled(file, said)
    assert again.keys() == {key for key in file if not key.endswith("position_ids")}
    assert all(torch.equal(again[key], file[key]) for key in again)


@torch.no_grad()
def test_towers_give_what_they_gave():
    sd1, sd2, sdxl = (Recording(name) for name in ("sd1", "sd2-v", "sdxl"))
    network, _ = filled(below(sd1.weights("model.safetensors"), TOWERS[0][2]), TOWERS[0][3])
    conditioner = build("sd1", [network])
    states, _ = conditioner.encoders[0].states(sd1.inputs["ids"])
    assert error(states, sd1.outputs["text.cond"]) < 1e-4
    network, _ = filled(below(sd2.weights("model.safetensors"), TOWERS[1][2]), TOWERS[1][3])
    states, _ = build("sd2", [network]).encoders[0].states(sd2.inputs["ids"])
    assert error(states, sd2.outputs["text.cond"]) < 1e-4
    networks = [
        filled(below(sdxl.weights(name), prefix), said)[0] for _, name, prefix, said in TOWERS[2:4]
    ]
    left, right = build("sdxl", networks).encoders
    assert error(left.states(sdxl.inputs["ids_l"])[0], sdxl.outputs["text.l.penultimate"]) < 1e-4
    states, vector = right.states(sdxl.inputs["ids_g"])
    assert error(states, sdxl.outputs["text.g.penultimate"]) < 1e-4
    assert error(vector, sdxl.outputs["text.g.pooled"]) < 1e-4


def build(family, networks):
    """A family's conditioner around networks that are there already."""
    conditioner = joined(family, [one.config for one in networks]).build()
    for reader, network in zip(conditioner.encoders, networks, strict=True):
        reader.network = network
    return conditioner


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_a_clip_tower_equals_that_of_transformers(activation):
    transformers = pytest.importorskip("transformers")
    config = clip.Config(24, 3, 3, 40, activation, 60, 16, projection=12)
    torch.manual_seed(0)
    network = config.build().eval()
    layout = transformers_clip.LAYOUTS[0]
    theirs = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(**{**layout.describe(config), "attn_implementation": "eager"})
    ).eval()
    prefix = "text_model." if "text_projection.weight" in theirs.state_dict() else ""
    file = dict(
        transformers_clip.layout("it", prefix).table(config).to_theirs(network.state_dict())
    )
    theirs.load_state_dict(file)
    ids = torch.tensor([[58, 3, 9, 59, 59], [58, 7, 59, 0, 0]])
    want = theirs(ids, output_hidden_states=True)
    for skip in (0, 1, 2):
        states, last = network(network.embedding(ids), skip, True)
        assert error(states, want.hidden_states[-1 - skip]) < 1e-5
    assert error(last, want.last_hidden_state) < 1e-5
    ends = torch.tensor([3, 2])
    assert error(network.project(last[torch.arange(2), ends]), want.text_embeds) < 1e-5


@torch.no_grad()
def test_a_t5_encoder_equals_that_of_transformers_also_far_apart():
    transformers = pytest.importorskip("transformers")
    config = t5.Config(width=24, depth=2, heads=3, head_width=5, hidden=40, vocabulary=60)
    torch.manual_seed(0)
    network = config.build()
    (layout,) = transformers_t5.LAYOUTS
    theirs = transformers.T5EncoderModel(transformers.T5Config(**layout.describe(config))).eval()
    file = dict(layout.table(config).to_theirs(network.state_dict()))
    theirs.load_state_dict(file | {"encoder.embed_tokens.weight": file["shared.weight"]})
    ids = torch.randint(0, 60, (2, 300))
    assert error(network(network.embedding(ids), 0, True)[1], theirs(ids).last_hidden_state) < 1e-5


@torch.no_grad()
def test_t5_in_fp16_stays_finite_where_its_sums_do_not_fit():
    torch.manual_seed(0)
    network = t5.Config(width=24, depth=3, heads=3, head_width=5, hidden=40, vocabulary=60).build()
    network.blocks[1].fc1.weight.mul_(300)
    network.blocks[1].fc2.weight.mul_(300)
    network.half().float()  # the same numbers in both
    ids = torch.randint(0, 60, (2, 12))
    states, want = network(network.embedding(ids), 1, True)
    assert states.abs().max() > 10 * torch.finfo(torch.float16).max
    network.half()
    narrow, got = network(network.embedding(ids), 1, True)
    assert got.dtype == torch.float16
    assert difference(got.float(), want) < 3e-3
    assert difference(narrow, states) < 3e-3


@torch.no_grad()
def test_a_folder_becomes_the_conditioner_of_its_family():
    recording = Recording("diffusers-folders")
    conditioner = read(recording.file("sd3")).conditioner.float()
    told = conditioner([Prompt(text) for text in recording.facts["config"]["prompts"]])
    assert error(told.tokens.values[:, :77], recording.outputs["sd3.prompt_embeds"][:, :77]) < 1e-4
    assert error(told.vector, recording.outputs["sd3.pooled"]) < 1e-4
    assert told.tokens.values.shape == (2, 77 + 256, 48)


@torch.no_grad()
def test_a_tower_may_be_written_without_what_it_does_not_use():
    torch.manual_seed(0)
    whole = joined(
        "sd2", [clip.Config(16, 3, 2, 32, "gelu", 60, projection=8, temperature=True)]
    ).build()
    reader = whole.encoders[0]
    config, state = cut(reader.config, reader.network.state_dict())
    lean = joined("sd2", [config]).build()
    lean.encoders[0].network.load_state_dict(state)
    ids = torch.tensor([[58, 3, 9, 59, 0]])
    assert (config.depth, lean.encoders[0].config.skip, reader.config.skip) == (2, 0, 1)
    assert torch.equal(lean.encoders[0].states(ids)[0], reader.states(ids)[0])
    sdxl = joined("sdxl", [clip.Config(16, 3, 2, 32), clip.Config(16, 3, 2, 32, projection=8)])
    assert [cut(tower, {"blocks.2.out.bias": None})[0] for tower in sdxl.encoders] == [
        one.network for one in sdxl.encoders
    ]


def test_families_say_which_towers_they_want():
    own = {
        "sd1",
        "sd2",
        "sdxl",
        "sdxl-refiner",
        "sd3",
        "flux",
        "flux2",
        "flux2-klein",
        "ldm-text",
        "ldm-layout",
    }
    assert set(FAMILIES) == own
    with pytest.raises(BadInput, match="did you mean 'sdxl'"):
        joined("sdx", [])
    with pytest.raises(BadInput, match="sdxl has 2 text encoders, got 1"):
        joined("sdxl", [clip.Config()])
    with pytest.raises(BadInput, match="text encoder 2 of sd3 is missing"):
        joined("sd3", [clip.Config(projection=8), None, None])
    assert (
        joined("sd3", [clip.Config(projection=8)] * 2 + [None], 32).encoders[2].network.width == 32
    )
