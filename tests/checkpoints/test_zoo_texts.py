"""The text encoder of latent diffusion's zoo: tokens, whole files and folders, boxes as ids."""

import numpy
import pytest
import torch
import zoo
from safetensors.torch import load_file

import safelight
from recorded import Recording, error
from safelight import checkpoints
from safelight.autoencoders.kl import config as kl_config
from safelight.denoisers.unet.config import Config, Level
from safelight.diffusion.noise import SeededNoise
from safelight.errors import BadInput
from safelight.layouts.text_encoder import ldm_bert
from safelight.nn.text_models import bert
from safelight.tokenization.tokenizers import wordpiece
from safelight.types.networks import Prompt

ORIGINAL, PEER = ldm_bert.LAYOUTS
TOWER = bert.Config(width=24, depth=2, heads=2, head_width=8, hidden=40, vocabulary=30, length=77)
LIST = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghij",
    "red",
    "fox",
    "##es",
    "##s",
    ",",
    "over",
    "!",
]
NETWORK = Config(levels=(Level(32, 1, 8), Level(64, 0, 8)), text_width=24, linear=False)
PICTURES = kl_config.Config(width=32, multipliers=(1, 1, 1, 1), blocks=1)
HINTS = {"text_head_width": 8}


def test_the_public_text_encoder_is_inferred_at_full_size():
    config = bert.Config()
    with torch.device("meta"):
        state = config.build().state_dict()
    assert (
        sum(one.numel() for one in state.values()) == 581_994_042
    )  # and 872,300,484 of the U-Net: 1.45 billion
    for layout in (ORIGINAL, PEER):
        shapes = {name: tuple(one.shape) for name, one in layout.table(config).to_theirs(state)}
        assert [one for one in (ORIGINAL, PEER) if one.recognises(shapes)] == [layout]
        assert layout.config(shapes, {}) == config
    assert {"attn_layers.layers.63.1.net.0.0.weight", "pos_emb.emb.weight", "to_logits.bias"} <= {
        name for rule in ORIGINAL.table(config).rules for name in rule.theirs
    }


@torch.no_grad()
def test_it_equals_the_peer_librarys_with_the_same_weights(monkeypatch):
    monkeypatch.setattr(Recording, "latest", "ldm-text")
    pytest.importorskip("diffusers")
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    network = zoo.drawn(TOWER.build())
    theirs = LDMBertModel(LDMBertConfig(**PEER.describe(TOWER))).eval()
    theirs.load_state_dict(dict(PEER.table(TOWER).to_theirs(network.state_dict())))
    ids = torch.randint(0, 30, (2, 9))
    want = theirs(ids, output_hidden_states=True, return_dict=True)
    states, last = network(network.embedding(ids), 1, True)
    assert error(last, want.last_hidden_state) < 1e-5
    assert error(states, want.hidden_states[1]) < 1e-5
    assert torch.equal(network(network.embedding(ids), 1)[0], states)


def test_text_is_tokenized_as_by_the_original_library(tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(LIST) + "\n", encoding="utf-8")
    ours, theirs = wordpiece(LIST), transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    for text in (
        "Red FOXES, red foxs!",
        "übér [SEP] over",
        "red\tfox 狐 fox.",
        "",
        "zebra" * 30,
        "a-b c",
    ):
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(
            text, add_special_tokens=False
        )


@pytest.fixture
def text_file(tmp_path):
    tower = zoo.named(ORIGINAL, TOWER, "cond_stage_model.transformer.")
    file = tmp_path / "with" / "text.safetensors"
    file.parent.mkdir()
    (file.parent / "vocab.txt").write_text("\n".join(LIST) + "\n", encoding="utf-8")
    return zoo.written(
        file, zoo.network(NETWORK), zoo.first_stage(PICTURES), tower, zoo.betas(0.00085, 0.012)
    )


def test_a_file_uses_the_vocabulary_next_to_it_and_round_trips(text_file, tmp_path):
    model = checkpoints.read(text_file, HINTS)
    assert model.card.origin["family"] == "ldm-text"
    (reader,) = model.conditioner.encoders
    (chunk,) = reader.chunks([[("Red foxes!", 1.0)]])
    assert chunk.ids == (2, 15, 16, 17, 21, 3, *[0] * 71)
    told = model.conditioner([Prompt("Red foxes!"), Prompt()])
    assert told.tokens.values.shape == (2, 77, 24)
    assert told.tokens.mask.all()
    checkpoints.save(model, tmp_path / "native")
    again = checkpoints.read(tmp_path / "native")
    assert torch.equal(
        again.conditioner([Prompt("Red foxes!")]).tokens.values, told.tokens.values[:1]
    )
    checkpoints.save(again, tmp_path / "again.safetensors", "single-file")
    first, second = load_file(text_file), load_file(tmp_path / "again.safetensors")
    assert second.keys() == first.keys() - {"betas"}
    assert all(torch.equal(second[name], first[name]) for name in second)
    alone = checkpoints.read(tmp_path / "again.safetensors", HINTS)
    with pytest.raises(
        BadInput, match=r"put the vocab\.txt of bert-base-uncased, .* beside the file"
    ):
        alone.conditioner([Prompt("red")])


@pytest.mark.filterwarnings("ignore")
def test_the_peer_librarys_pipeline_makes_the_same_picture_of_the_folder(text_file, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    checkpoints.save(checkpoints.read(text_file, HINTS), tmp_path / "folder", "diffusers")
    model = safelight.load(tmp_path / "folder", "cpu", "fp32", {"heads": 8})
    task = safelight.TextToImage(prompt="red foxes", width=16, height=16)
    settings = safelight.Settings(steps=3, sampler="ddim", spacing="leading", guidance=3.0, seed=5)
    (ours,) = safelight.generate(model, task, settings)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(tmp_path / "folder"))
    pipeline.set_progress_bar_config(disable=True)
    start = SeededNoise([5])((1, 4, 2, 2))
    (theirs,) = pipeline(
        "red foxes", 16, 16, num_inference_steps=3, guidance_scale=3.0, latents=start
    ).images
    assert numpy.abs(numpy.asarray(ours, float) - numpy.asarray(theirs, float)).max() <= 1


@torch.no_grad()
def test_boxes_are_read_as_token_ids(tmp_path):
    config = Config(3, 0, (Level(32, 0, 1), Level(64, 3, 2)), middle=3, text_width=24, linear=False)
    boxes = bert.Config(24, 2, 2, 8, 40, vocabulary=50, length=12)
    tower = zoo.named(ORIGINAL, boxes, "cond_stage_model.transformer.")
    (tmp_path / "vocab.txt").write_text("\n".join(LIST), encoding="utf-8")  # of another file
    path = zoo.written(
        tmp_path / "boxes.safetensors",
        zoo.network(config),
        zoo.first_stage(),
        tower,
        {"scale_factor": torch.tensor(0.25)},
    )
    model = checkpoints.read([path], HINTS)
    assert model.card.origin["family"] == "ldm-layout"
    (reader,) = model.conditioner.encoders
    assert reader.chunks([[("7 41, 0", 1.0)]])[0].ids == (7, 41, 0, *[49] * 9)
    told = model.conditioner([Prompt("7 41, 0"), Prompt()])
    ids = torch.tensor([[7, 41, 0, *[49] * 9]])
    assert torch.equal(
        told.tokens.values[:1], reader.network(reader.network.embedding(ids), 0, True)[1]
    )
    for wrong in ("50", "-1", "fox", "²"):
        with pytest.raises(BadInput, match="prompts are token ids from 0 to 49, got"):
            model.conditioner([Prompt(wrong)])
    checkpoints.save(model, tmp_path / "again.safetensors", "single-file")
    first, second = load_file(path), load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(second[name], first[name]) for name in second)
    assert second.keys() == first.keys()
