"""CLIP's image encoders in public layouts: equal to transformers', round trips, ``inspect``."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from recorded import DATA, error
from safelight import checkpoints
from safelight.checkpoints.assembly import build_part
from safelight.checkpoints.parts import find_parts
from safelight.errors import BadInput
from safelight.inspection import inspect
from safelight.layouts.clip_vision.transformers import LAYOUTS
from safelight.media.pictures import to_images
from safelight.nn.clip_vision import MEAN, STD, Config, preprocess

TOY = Config(
    width=128,
    depth=3,
    heads=2,
    hidden=48,
    activation="quick_gelu",
    patch=14,
    size=28,
    projection=10,
)
LARGE = Config(1024, 24, 16, 4096, "quick_gelu", projection=768)
GIANT = Config(1664, 48, 16, 8192, "gelu", projection=1280)


def theirs(config, projected=True):
    transformers = pytest.importorskip("transformers")
    said = {
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "hidden_act": config.activation,
    }
    said |= {
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "projection_dim": config.projection,
    }
    said |= {"image_size": config.size, "patch_size": config.patch}
    kind = transformers.CLIPVisionModelWithProjection if projected else transformers.CLIPVisionModel
    return kind(transformers.CLIPVisionConfig(**said)).eval()


def keep(state, path):
    save_file({name: one.contiguous() for name, one in state.items()}, path)
    return path


def read(path):
    (piece,) = find_parts([path], {})[0]
    return piece, build_part(piece)


@torch.no_grad()
def test_an_image_encoder_of_transformers_gives_the_same_output(tmp_path):
    torch.manual_seed(0)
    other = theirs(TOY)
    piece, image_encoder = read(keep(other.state_dict(), tmp_path / "model.safetensors"))
    assert (piece.part, piece.layout.name, piece.config) == ("image_encoder", "transformers", TOY)
    images = 2 * torch.rand(2, 3, 28, 28) - 1
    pixels = preprocess(images, 28)
    want = other(pixel_values=pixels, output_hidden_states=True)
    assert error(image_encoder(images), want.image_embeds) < 1e-5
    assert error(image_encoder.states(images), want.hidden_states[-2]) < 1e-5
    none = other(pixel_values=torch.zeros_like(pixels), output_hidden_states=True).hidden_states[-2]
    assert error(image_encoder.null_states().expand(2, -1, -1), none) < 1e-5
    again = dict(piece.layout.table(piece.config).to_theirs(image_encoder.state_dict()))
    assert again.keys() == other.state_dict().keys()
    assert all(torch.equal(again[name], one) for name, one in other.state_dict().items())


@torch.no_grad()
def test_an_image_encoder_without_projection_gives_states(tmp_path):
    other = theirs(TOY, projected=False)
    piece, image_encoder = read(keep(other.state_dict(), tmp_path / "model.safetensors"))
    assert (piece.layout.name, piece.config) == ("transformers-bare", replace(TOY, projection=0))
    images = 2 * torch.rand(1, 3, 28, 28) - 1
    want = other(pixel_values=preprocess(images, 28), output_hidden_states=True).hidden_states[-2]
    assert error(image_encoder.states(images), want) < 1e-5
    with pytest.raises(BadInput, match="makes no vectors"):
        image_encoder(images)


def test_hints_state_what_files_of_image_encoders_do_not(tmp_path):
    file = keep(
        dict(LAYOUTS[0].table(TOY).to_theirs(TOY.build().state_dict())),
        tmp_path / "model.safetensors",
    )
    (piece,) = find_parts([file], {"image_encoder_heads": "4", "image_encoder_activation": "gelu"})[
        0
    ]
    assert piece.config == replace(TOY, heads=4, activation="gelu")
    for hint, message in (
        (
            {"image_encoder_heads": "many"},
            "image_encoder_heads must be a whole number from 1 to 65536, got 'many'",
        ),
        ({"image_encoder_heads": "3"}, "a width of 128 cannot be divided among 3 heads"),
        (
            {"image_encoder_activation": "sine"},
            "image_encoder_activation must be gelu or quick_gelu, got 'sine'",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            build_part(find_parts([file], hint)[0][0])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: one.name)
def test_every_layout_reads_what_it_writes(layout, tmp_path):
    torch.manual_seed(0)
    image_encoder = TOY.build()
    written = dict(layout.table(TOY).to_theirs(image_encoder.state_dict()))
    piece, again = read(keep(written, tmp_path / "clip_vision_toy.safetensors"))
    assert (piece.layout, piece.config) == (layout, TOY)
    assert all(
        torch.equal(one, image_encoder.state_dict()[name])
        for name, one in again.state_dict().items()
    )


def test_openclips_names_hold_the_same_numbers(tmp_path):
    """OpenCLIP has one matrix for queries, keys and values, and a transposed projection."""
    image_encoder = TOY.build()
    named = {
        one.name: dict(one.table(TOY).to_theirs(image_encoder.state_dict())) for one in LAYOUTS
    }
    layer = "vision_model.encoder.layers.1.self_attn."
    three = torch.cat([named["transformers"][f"{layer}{one}_proj.weight"] for one in "qkv"])
    assert torch.equal(
        named["openclip"]["visual.transformer.resblocks.1.attn.in_proj_weight"], three
    )
    projection = named["transformers"]["visual_projection.weight"]
    assert torch.equal(named["openclip"]["visual.proj"], projection.T)


def test_a_whole_clip_gives_its_image_and_text_encoder(tmp_path):
    from safelight.layouts.text_encoder import clip as transformers_clip
    from safelight.layouts.text_encoder import openclip
    from safelight.nn.text_models import clip

    text = clip.Config(
        width=64, depth=2, heads=1, hidden=32, activation="gelu", vocabulary=60, projection=10
    )
    text = replace(text, temperature=True)
    for number, tower in ((2, openclip.LAYOUTS[0]), (0, transformers_clip.LAYOUTS[0])):
        network = replace(
            text, temperature=number == 2, activation="gelu" if number == 2 else "quick_gelu"
        )
        state = dict(LAYOUTS[number].table(TOY).to_theirs(TOY.build().state_dict()))
        state |= dict(tower.table(network).to_theirs(network.build().state_dict()))
        state |= {"logit_scale": torch.tensor(2.0)}
        found, _ = find_parts([keep(state, tmp_path / "whole.safetensors")], {})
        assert [(one.part, one.config) for one in found] == [
            ("tower", network),
            ("image_encoder", TOY),
        ]
    lone = {
        name: one
        for name, one in state.items()
        if name.startswith(("vision_model", "visual", "logit"))
    }
    assert [one.part for one in find_parts([keep(lone, tmp_path / "lone.safetensors")], {})[0]] == [
        "image_encoder"
    ]


@pytest.mark.parametrize(
    ("config", "millions"),
    [(LARGE, 304.0), (Config(), 632.1), (GIANT, 1844.9)],
    ids=["ViT-L", "ViT-H", "ViT-bigG"],
)
def test_the_public_sizes_are_recognised_by_their_shapes(config, millions):
    with torch.device("meta"):
        other, image_encoder = theirs(config), config.build()
    shapes = {name: tuple(one.shape) for name, one in other.state_dict().items()}
    layout = next(one for one in LAYOUTS if one.recognises(shapes))
    assert layout.config(shapes, {}) == config
    read = dict(layout.table(config).to_ours(other.state_dict(), image_encoder.state_dict(), "it"))
    assert read.keys() == image_encoder.state_dict().keys()
    assert round(sum(one.numel() for one in image_encoder.parameters()) / 1e6, 1) == millions


def test_an_image_encoder_is_inspected_and_converted(tmp_path):
    file = keep(
        dict(LAYOUTS[2].table(TOY).to_theirs(TOY.build().state_dict())),
        tmp_path / "open.safetensors",
    )
    assert inspect(str(file))["parts"]["image_encoder"]["kind"] == "clip-vision"
    model = checkpoints.read(file)
    checkpoints.save(model, tmp_path / "folder", "diffusers")
    said = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert said["architectures"] == ["CLIPVisionModelWithProjection"]
    folder = checkpoints.read(tmp_path / "folder")
    assert folder.image_encoder.config == TOY
    checkpoints.save(folder, tmp_path / "single.safetensors", "single-file")
    again = load_file(tmp_path / "single.safetensors")
    want = dict(LAYOUTS[0].table(TOY).to_theirs(model.image_encoder.state_dict()))
    assert again.keys() == want.keys()
    assert all(torch.equal(again[name], one) for name, one in want.items())
    with pytest.raises(
        BadInput,
        match="an image encoder has no layout of ours: write it as diffusers or single-file",
    ):
        checkpoints.save(model, tmp_path / "native")


def test_the_image_encoder_crops_the_centre_at_its_own_size():
    images = torch.zeros(1, 3, 20, 40)
    images[..., 10:30] = 1.0
    square = (
        preprocess(images, 10) * torch.tensor(STD)[:, None, None]
        + torch.tensor(MEAN)[:, None, None]
    )
    assert square.shape == (1, 3, 10, 10)
    torch.testing.assert_close(square[..., 2:8], torch.ones(1, 3, 10, 6))
    with pytest.raises(BadInput, match="is no multiple of the patch size 14"):
        Config(size=225)


def pictures():
    """Pictures of several kinds and sizes: real ones, where available, and synthetic ones."""
    draw = np.random.default_rng(0)
    yield Image.fromarray(draw.integers(0, 256, (300, 417, 3), dtype=np.uint8))
    ramp = np.mgrid[0:640, 0:233].sum(0)[..., None] * np.array([0.2, 0.1, 0.25])
    yield Image.fromarray(ramp.astype(np.uint8))
    yield Image.fromarray(
        (draw.random((40, 50, 1)) > 0.5).astype(np.uint8).repeat(3, 2) * 255
    )  # enlarged
    photos = DATA / "dreambooth-256" / "dreambooth-256.zip"
    if photos.is_file():
        with zipfile.ZipFile(photos) as archive:
            for name in [one for one in archive.namelist() if one.endswith(".webp")][::20]:
                yield Image.open(archive.open(name)).convert("RGB")


def test_pictures_are_made_ready_as_transformers_does_it():
    transformers = pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    assert transformers
    ready = CLIPImageProcessorPil(
        size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}
    )
    for picture in pictures():
        want = ready(picture, return_tensors="pt")["pixel_values"]
        got = preprocess(to_images([picture]), 224)
        assert float((got - want).abs().max()) < 1e-5, picture.size  # one of 255 would be 0.015
