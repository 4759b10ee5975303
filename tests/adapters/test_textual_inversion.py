"""Learned words in the containers of others, read into a model and out of it again."""

import pytest
import torch
from safetensors.torch import save_file

from recorded import Recording, difference, error
from safelight.adapters.textual_inversion import read
from safelight.attachments.embeddings import add_embeddings_from, remove_embedding
from safelight.errors import BadInput
from safelight.layouts.text_encoder import clip as transformers_clip
from safelight.layouts.text_families import joined
from safelight.model import LatentDiffusion
from safelight.types.networks import Prompt

FILES = {
    "ti-a1111.pt": "toy",
    "ti-diffusers.safetensors": "<toy>",
    "ti-emb_params.safetensors": "ti-emb_params",
}
FILES["ti-string_to_param.safetensors"] = "ti-string_to_param"


@pytest.fixture
def model():
    """A model of nothing but the recorded text tower, of eight features."""
    prefix = "cond_stage_model.transformer."
    whole = Recording("sd1").weights("model.safetensors")
    file = {key.removeprefix(prefix): one for key, one in whole.items() if key.startswith(prefix)}
    (layout, *_) = transformers_clip.LAYOUTS
    config = layout.config(
        {key: tuple(one.shape) for key, one in file.items()}, {"text_head_width": 4}
    )
    conditioner = joined("sd1", [config]).build()
    network = conditioner.encoders[0].network
    network.load_state_dict(dict(layout.table(config).to_ours(file, network.state_dict(), "sd1")))
    return LatentDiffusion(conditioner=conditioner.eval())


def values(model, text):
    with torch.no_grad():
        return model.conditioner([Prompt(text)]).tokens.values


@pytest.mark.parametrize("file", FILES)
def test_a_word_is_read_as_recorded_and_removing_it_restores(model, file):
    lora, word = Recording("lora"), FILES[file]
    before = values(model, f"a {word} fox")
    assert add_embeddings_from(model, lora.file(file)) == [word]
    with torch.no_grad():
        states, _ = model.conditioner.encoders[0].states(lora.inputs["textual_inversion.ids"])
    assert error(states, lora.outputs["textual_inversion.text"]) < 1e-4
    assert difference(values(model, f"a {word.upper()} fox"), before) > 0.01
    (chunk,) = model.conditioner.encoders[0].chunks([[(f"a {word}", 1.0)]])
    assert chunk.ids[:5] == (49_406, 320, 49_408, 49_409, 49_407)
    assert word not in str(model.conditioner.state_dict().keys())
    remove_embedding(model, word)
    assert torch.equal(values(model, f"a {word} fox"), before)
    with pytest.raises(BadInput, match="unknown embedding"):
        remove_embedding(model, word)


def test_words_of_another_model_leave_this_one_untouched(model, tmp_path):
    file = tmp_path / "two.safetensors"
    save_file({"<one>": torch.ones(8), "<two>": torch.ones(2, 9)}, file)
    before = values(model, "<one>")
    with pytest.raises(
        BadInput, match=r"'<two>' has vectors of shape \(2, 9\); this model's .* take \(n, 8\)"
    ):
        add_embeddings_from(model, file)
    assert torch.equal(values(model, "<one>"), before)
    with pytest.raises(
        BadInput, match="has no text encoders that accept textual-inversion embeddings"
    ):
        add_embeddings_from(LatentDiffusion(), Recording("lora").file("ti-diffusers.safetensors"))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("birb-style_learned_embeds.bin", {"<birb-style>": (1, 768)}),
        ("emb_params_5x768.safetensors", {"emb_params_5x768": (5, 768)}),
    ],
)
def test_real_files_are_read(name, shapes):
    from safelight.weights.files import open_weights

    path = Recording("real-files").file(name)
    weights = open_weights(path)
    found = read(weights, weights.metadata, path.stem)
    assert {word: tuple(vectors[0].shape) for word, vectors in found.items()} == shapes


def test_a_file_for_two_towers_and_one_of_several_words():
    both = {"clip_l": torch.ones(3, 768), "clip_g": torch.ones(3, 1280)}
    assert [tuple(one.shape) for one in read(both, {}, "owl")["owl"]] == [(3, 768), (3, 1280)]
    with_lora = {"<s1>": torch.ones(768), "<s2>": torch.ones(768), "unet:0:up": torch.ones(4, 1)}
    assert set(read(with_lora, {}, "disney")) == {"<s1>", "<s2>"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "owl holds no textual-inversion embeddings: .* got nothing"),
        ({"down_blocks.0.weight": torch.ones(2, 2)}, "got down_blocks.0.weight"),
        ({"emb_params": torch.ones(2, 2), "other": torch.ones(2)}, "got other"),
        (
            {"<a>": torch.ones(1, 2, 3)},
            r"<a>: wanted vectors of shape \(width\) or \(n, width\), got \(1, 2, 3\)",
        ),
    ],
)
def test_what_is_no_word_is_refused(tensors, message):
    with pytest.raises(BadInput, match=message):
        read(tensors, {}, "owl")
