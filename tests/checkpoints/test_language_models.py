"""Language models as text encoders: equal to their originals; FLUX.2 from a folder."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import safelight
from recorded import Recording, error
from safelight import checkpoints
from safelight.card import Card
from safelight.config import read
from safelight.denoisers.flux.config import Config as Flux
from safelight.errors import BadInput, Note
from safelight.layouts.families import families, family_of
from safelight.layouts.text_encoder import language_model as transformers_decoder
from safelight.layouts.text_families import joined
from safelight.model import LatentDiffusion
from safelight.nn.text_models.decoder import Config
from safelight.settings import Settings
from safelight.tasks.text_to_image import TextToImage
from safelight.tokenization.vocabulary import CHAT_TEMPLATES, TextTokenizer
from safelight.types.networks import Prompt

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "vocab_size": 300,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
}
MARKS = {
    "mistral": [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "<pad>",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
    ],
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
}


def spelling(kind):
    """A tokenizer that spells bytes, with the marks of its kind."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({one: n for n, one in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.add_special_tokens(MARKS[kind])
    return made


def dialect_of(file):
    shapes = {name: tuple(one.shape) for name, one in file.items()}
    (found,) = [one for one in transformers_decoder.LAYOUTS if one.recognises(shapes)]
    return found, shapes


def filled(file, said):
    layout, shapes = dialect_of(file)
    network, table = (
        layout.config(shapes, said).build().eval(),
        layout.table(layout.config(shapes, said)),
    )
    ours = dict(table.to_ours(file, network.state_dict(), "it"))
    network.load_state_dict(ours)
    return network, dict(table.to_theirs(ours))


@pytest.mark.parametrize(("name", "left"), [("Mistral", True), ("Qwen3", False)])
@torch.no_grad()
def test_it_equals_that_of_transformers(name, left):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    said = SIZES | ({"sliding_window": None} if left else {})
    of = {
        "Mistral": (transformers.MistralModel, transformers.MistralConfig),
        "Qwen3": (transformers.Qwen3Model, transformers.Qwen3Config),
    }
    original, shape = of[name]
    theirs = original(shape(**said)).eval()
    for one in theirs.parameters():
        torch.nn.init.normal_(one, 1.0 if one.ndim == 1 else 0.0, 0.2)
    file = {f"model.{key}": one for key, one in theirs.state_dict().items()}
    network, again = filled(file, SIZES)
    assert network.config.output_layers == (1, 2, 3)
    assert network.config.qk_norm == (name == "Qwen3")
    assert all(torch.equal(again[key], file[key]) for key in again)
    assert not any("layers.3." in key for key in again)
    ids = torch.randint(0, 300, (2, 9))
    counts = torch.ones(2, 9, dtype=torch.bool)
    counts[0, : 4 if left else 0] = False
    counts[0, 9 if left else 5 :] = False
    states = theirs(ids, attention_mask=counts.long(), output_hidden_states=True).hidden_states
    want = torch.cat([states[tap] for tap in (1, 2, 3)], dim=-1)
    got, vector = network(network.embedding(ids), mask=counts)
    assert vector is None
    assert error(got, want) < 1e-5  # also where nothing is seen: what pads is read by the denoiser


def test_its_shape_is_that_of_the_public_ones():
    for file, said, want in (
        (
            listed("language_model.model.", 40, 5120, 32, 8, 128, 32_768, 131_072, False),
            {},
            Config(),
        ),
        (
            listed("model.", 36, 2560, 32, 8, 128, 9728, 151_936, True),
            {"rope_theta": 1e6},
            Config(2560, (9, 18, 27), 32, 8, 128, 9728, 151_936, True, 1e6, 1e-6),
        ),
    ):
        layout, shapes = dialect_of(file)
        config = layout.config(shapes, said)
        assert config == want
        with torch.device("meta"):
            network = config.build()
        ours = dict(layout.table(config).to_ours(file, network.state_dict(), "it"))
        assert ours.keys() == network.state_dict().keys()


def listed(prefix, depth, width, heads, shared, head, hidden, vocabulary, qk_norm):
    """Names and shapes of a whole model, without memory; with what is not read of it."""
    block = {
        "self_attn.q_proj": (heads * head, width),
        "self_attn.k_proj": (shared * head, width),
        "self_attn.v_proj": (shared * head, width),
        "self_attn.o_proj": (width, heads * head),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
        **({"self_attn.q_norm": (head,), "self_attn.k_norm": (head,)} if qk_norm else {}),
    }
    shapes = {
        f"{prefix}layers.{n}.{name}.weight": shape
        for n in range(depth)
        for name, shape in block.items()
    }
    shapes |= {
        f"{prefix}embed_tokens.weight": (vocabulary, width),
        f"{prefix}norm.weight": (width,),
    }
    shapes |= {
        "language_model.lm_head.weight": (vocabulary, width),
        "vision_tower.ln_pre.weight": (1024,),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["mistral", "qwen"])
def test_a_prompt_is_asked_as_the_model_was_taught(kind):
    words = TextTokenizer(kind, 300)
    words.load_files({"tokenizer.json": spelling(kind).to_str().encode()}, "a folder")
    again = TextTokenizer(kind, 300)
    again.set_extra_state(words.get_extra_state())
    reader = (
        joined("flux2" if kind == "mistral" else "flux2-klein", [Config(8, (1,), 1, 1, 4, 8, 300)])
        .build()
        .encoders[0]
    )
    reader.tokenizer = again
    (chunk,) = reader.chunks([[("a fox", 1.0)]])
    asked = CHAT_TEMPLATES[kind]
    assert len(chunk.ids) == 512
    assert chunk.ids[0 if kind == "mistral" else -1] == again.pad_id
    assert chunk.ids[-1 if kind == "mistral" else 0] != again.pad_id
    ids = [one for one in chunk.ids if one != again.pad_id]
    assert ids == spelling(kind).encode(f"{asked.prefix}a fox{asked.suffix}").ids
    if kind == "mistral":
        assert again.token_ids("a[IMG] fox") == again.token_ids("a fox")
    said = reader.truncated_text([[("word " * 200 + "owl", 1.0)]])
    assert said.endswith("word owl")
    with pytest.raises(BadInput, match="a text encoder of 300 tokens needs its own tokenizer"):
        TextTokenizer(kind, 300).token_ids("a")


@pytest.fixture
def folder(tmp_path):
    """FLUX.2 at toy width in a folder, with its text tower."""
    recording = Recording("flux2")
    files = [recording.file(name) for name in ("flux2-dev.safetensors", "ae.safetensors")]
    axes = recording.facts["config"]["transformer"]["axes_dim"]
    model = checkpoints.read(files, {"licence": "mine", "axes": axes})
    assert model.conditioner is None
    checkpoints.save(model, tmp_path / "flux2", "diffusers")
    width = model.denoiser.config.text_width // 3
    said = SIZES | {"hidden_size": width}
    file = listed("language_model.model.", 4, width, 4, 2, 6, 40, 300, False)
    torch.manual_seed(0)
    file = {name: 0.2 * torch.randn(one.shape) + (one.ndim == 1) for name, one in file.items()}
    for name in ("text_encoder", "tokenizer"):
        (tmp_path / "flux2" / name).mkdir()
    save_file(file, tmp_path / "flux2" / "text_encoder" / "model.safetensors")
    config = {"model_type": "mistral3", "text_config": said}
    (tmp_path / "flux2" / "text_encoder" / "config.json").write_text(json.dumps(config))
    (tmp_path / "flux2" / "tokenizer" / "tokenizer.json").write_text(spelling("mistral").to_str())
    index = json.loads((tmp_path / "flux2" / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "Mistral3ForConditionalGeneration"]
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (tmp_path / "flux2" / "model_index.json").write_text(json.dumps(index))
    return tmp_path / "flux2"


def test_flux2_runs_on_a_prompt_from_a_folder(folder, tmp_path):
    model = safelight.load(folder, "cpu", "fp32")
    told = model.conditioner([Prompt("a fox")])
    assert told.tokens.values.shape == (1, 512, model.denoiser.config.text_width)
    assert told.tokens.mask.all()
    settings = Settings(steps=2, seed=1)
    tasks = [TextToImage(text, width=64, height=64) for text in ("fox", "owl")]
    fox, owl = (safelight.generate(model, task, settings)[0] for task in tasks)
    assert fox.size == (64, 64)
    assert fox.tobytes() != owl.tobytes()
    checkpoints.save(model, tmp_path / "native")
    again = safelight.load(tmp_path / "native", "cpu", "fp32")
    assert safelight.generate(again, tasks[0], settings)[0].tobytes() == fox.tobytes()
    with pytest.warns(Note, match=r"FLUX\.2 dev is written without its text encoder"):
        checkpoints.save(model, tmp_path / "again", "diffusers")
    assert checkpoints.read(tmp_path / "again").conditioner is None


def test_klein_is_known_by_what_it_does_not_hear_and_its_base_by_the_folder(tmp_path):
    torch.manual_seed(0)
    small = Flux(4, 0, 1, 32, (4, 4, 4, 4), 1, 1, 3.0, 24, 0, guidance=False, generation=2)
    family = families()["flux2-klein"]
    assert family_of("flux", small) is family
    assert family_of("flux", replace(small, guidance=True)).name == "flux2-dev"
    card = Card(name="klein", licence="Apache-2.0")
    model = LatentDiffusion(denoiser=small.build(), process=family.process(), card=card)
    checkpoints.save(model, tmp_path / "klein", "diffusers")
    read_ = checkpoints.read(tmp_path / "klein", {"axes": (4, 4, 4, 4)})
    assert read_.card.origin["family"] == "flux2-klein"
    assert (read_.card.settings.steps, read_.card.settings.guidance) == (4, "none")
    path = tmp_path / "klein" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_distilled": False}))
    base = checkpoints.read(tmp_path / "klein", {"axes": (4, 4, 4, 4)})
    assert (base.card.settings.steps, base.card.settings.guidance) == (50, 4.0)


def test_an_encoder_uses_the_tokenizer_next_to_it_and_other_families_are_refused(folder):
    parts = [Recording("flux2").file("flux2-dev.safetensors"), folder / "text_encoder"]
    other = Recording("diffusers-folders").file("flux/text_encoder")
    axes = Recording("flux2").facts["config"]["transformer"]["axes_dim"]
    alone = checkpoints.read(parts, {"axes": axes})
    assert (
        alone.conditioner.encoders[0].tokenizer.token_ids("a")
        == spelling("mistral").encode("a").ids
    )
    with pytest.raises(BadInput, match=r"no autoencoder \(such as flux2-vae\.safetensors\)"):
        alone.complete()
    with pytest.raises(
        BadInput, match=r"conditioner \(such as the text_encoder folder of FLUX\.2 dev"
    ):
        checkpoints.read(parts[:1], {"axes": axes}).complete()
    with pytest.raises(BadInput, match=r"FLUX\.2 dev does not have; leave it out"):
        checkpoints.read([*parts, other], {"axes": axes})


def test_impossible_shapes_are_refused():
    for wrong in (
        {"output_layers": []},
        {"output_layers": [2, 1]},
        {"head_width": 5},
        {"kv_heads": 5},
    ):
        with pytest.raises(BadInput):
            read(Config, wrong)
    with pytest.raises(BadInput, match="makes no vector"):
        Config(8, (1,), 1, 1, 4, 8, 30).build().project(torch.zeros(1, 8))
