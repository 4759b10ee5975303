"""Pictures as prompts from the command line to the file, with text and control; and saving."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import making
from adapters.image_prompts import EYE, adapter_file, eye_file
from attaching import with_control, with_pictures
from recorded import Recording, difference, error
from safelight import BadInput, Settings, TextToImage, checkpoints, generate, save
from safelight.adapters.lora import Merged
from safelight.attachments.image_prompts import with_image_prompt
from safelight.attachments.lora_files import adaptable_parts
from safelight.checkpoints.detach import detach
from safelight.media.headers import read_recipe
from safelight.types.networks import Prompt

WIDTHS = (8, 8, 8, 16)
TASK = TextToImage("a cat", "a dog", 32, 32)


def folder(name):
    return Recording("diffusers-folders").file(name)


@pytest.fixture
def model():
    return checkpoints.load(folder("sd"), "cpu", "fp32")


@pytest.fixture
def files(tmp_path):
    """Adapters, an eye and what they are shown, in a folder."""
    torch.manual_seed(0)
    for kind in ("single", "plus", "face", "face-plus"):
        adapter_file(kind, tmp_path, kind == "face", WIDTHS, 16)
    eye_file(tmp_path)
    draw = np.random.default_rng(0)
    for name, size in (("fox.png", (30, 44)), ("owl.png", (50, 28))):
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    save_file({"face": torch.randn(12)}, tmp_path / "face.safetensors")
    np.save(tmp_path / "faces.npy", torch.randn(2, 12).numpy())
    return tmp_path


def pictures(model, **settings):
    made = generate(model, TASK, Settings(steps=2, seed=5, guidance=3.0, **settings))
    return [np.asarray(one).astype(int) for one in made]


def apart(one, other):
    return int(np.abs(one - other).max())


def test_the_command_line_prompts_with_a_picture_and_writes_it_down(
    files, monkeypatch, capsys, tmp_path
):
    said = [
        "--device",
        "cpu",
        "--steps",
        "2",
        "--size",
        "32",
        "--precision",
        "fp32",
        "--guidance",
        "3",
        "--quiet",
    ]
    single, plus = (files / f"ip-adapter-{kind}.safetensors" for kind in ("single", "plus"))

    def run(name, *words, image_encoder=("-m", files / "eye.safetensors")):
        words = [
            "generate",
            "a cat",
            "-m",
            folder("sd"),
            *image_encoder,
            *said,
            "--json",
            "--out",
            tmp_path / name,
            *words,
        ]
        return making.exit_code(monkeypatch, *words), capsys.readouterr()

    def made(name, *words):
        code, told = run(name, *words)
        assert code == 0
        adapters = json.loads(told.out)[0]["recipe"]["model"].get("adapters")
        return np.asarray(Image.open(tmp_path / name)).astype(int), adapters

    one, named = made("a.png", "--image-prompt", f"{single}={files / 'fox.png'}:0.8")
    assert named == {"ip-adapter-single.safetensors=fox.png": 0.8}
    assert read_recipe(tmp_path / "a.png")["model"]["adapters"] == named
    two, named = made("b.png", "--image-prompt", f"{plus}={files / 'fox.png'},{files / 'owl.png'}")
    assert named == {"ip-adapter-plus.safetensors=fox.png,owl.png": 1.0}
    none, named = made("c.png")
    assert named is None
    assert min(apart(one, two), apart(one, none), apart(two, none)) > 2
    code, told = run("d.png", "--image-prompt", f"{single}={files / 'fox.png'}", image_encoder=())
    assert code == 2
    assert (
        "this image prompt has no image encoder: add the image encoder that it was trained with"
        in told.err
    )
    assert "as one of the model's files (-m)" in told.err


@torch.no_grad()
@pytest.mark.parametrize("kind", ["single", "plus"])
def test_picture_and_no_picture_are_to_the_denoiser_what_the_peers_pipeline_makes_of_them(
    kind, model, files
):
    """From the file of a picture to the answers of the network, with the picture and without it."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    said = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 1,
    }
    said |= {"image_size": 28, "patch_size": 14, "projection_dim": 10, "hidden_act": "quick_gelu"}
    seeing = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**said)
    ).eval()
    save_file(
        {name: one.contiguous() for name, one in seeing.state_dict().items()},
        files / "model.safetensors",
    )
    adapter = files / f"ip-adapter-{kind}.safetensors"
    ready = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder("sd"), image_encoder=seeing, feature_extractor=ready, safety_checker=None
    ).to(torch.float32)
    pipe.load_ip_adapter(str(files), subfolder="", weight_name=adapter.name)
    pipe.set_ip_adapter_scale(0.7)
    picture = Image.open(files / "fox.png")
    told = pipe.prepare_ip_adapter_image_embeds(picture, None, torch.device("cpu"), 1, True)
    ours = replace(model, image_encoder=checkpoints.read(files / "model.safetensors").image_encoder)
    ours = with_pictures(ours, f"{adapter}={files / 'fox.png'}:0.7")
    prompts = [Prompt("a cat")]
    both = [ours.conditioner.null_condition(prompts), ours.conditioner(prompts)]
    text = torch.cat([one.tokens.values for one in both])
    noisy, time = torch.randn(1, 4, 8, 8).expand(2, -1, -1, -1), torch.full((2,), 500.0)
    want = pipe.unet(noisy, time, text, added_cond_kwargs={"image_embeds": told}).sample
    got = torch.cat([ours.denoiser(noisy[:1], time[:1], one) for one in both])
    assert error(got, want) < 1e-5
    assert difference(want[:1], want[1:]) > 0.01


def test_the_same_seed_gives_the_same_picture_in_any_batch(model, files):
    shown = with_pictures(
        replace(model, image_encoder=None),
        f"{files / 'ip-adapter-face.safetensors'}={files / 'face.safetensors'}",
    )
    first, second = pictures(shown, count=2)
    assert apart(pictures(shown)[0], first) <= 1
    assert apart(pictures(shown, one_batch=False)[0], first) <= 1
    assert apart(first, second) > 2


def test_a_scale_of_nothing_is_the_model_alone_and_several_add_up(model, files):
    alone = pictures(model)[0]
    image_encoder = checkpoints.read(files / "eye.safetensors").image_encoder
    seeing = replace(model, image_encoder=image_encoder)
    single, plus = (
        f"{files / f'ip-adapter-{kind}.safetensors'}={files / 'fox.png'}"
        for kind in ("single", "plus")
    )
    assert apart(pictures(with_pictures(seeing, f"{single}:0"))[0], alone) <= 1
    one, both = with_pictures(seeing, single), with_pictures(with_pictures(seeing, single), plus)
    assert apart(pictures(one)[0], pictures(both)[0]) > 2
    assert both.card.adapters.keys() == {
        "ip-adapter-single.safetensors=fox.png",
        "ip-adapter-plus.safetensors=fox.png",
    }


def test_a_face_adapter_merges_its_lora_and_takes_a_picture_too(model, files):
    before = {name: one.clone() for name, one in model.denoiser.state_dict().items()}
    made = with_pictures(
        model, f"{files / 'ip-adapter-face.safetensors'}={files / 'faces.npy'}:0.5"
    )
    assert made.card.adapters == {
        "ip-adapter-face.safetensors=faces.npy": 0.5,
        "ip-adapter-face.safetensors (LoRA)": 1.0,
    }
    changed = [
        name
        for name, one in model.denoiser.state_dict().items()
        if not torch.equal(one, before[name])
    ]
    assert len(changed) == 4 * 5  # qkv and out; q, kv and out
    assert detach(made).card.adapters == {"ip-adapter-face.safetensors (LoRA)": 1.0}
    seeing = replace(model, image_encoder=checkpoints.read(files / "eye.safetensors").image_encoder)
    adapter = files / "ip-adapter-face-plus.safetensors"
    both = f"{adapter}={files / 'fox.png'},{files / 'face.safetensors'}"
    assert pictures(with_pictures(seeing, both))


def test_what_is_shown_and_does_not_go_together_is_refused_in_a_sentence(model, files):
    face, single = files / "ip-adapter-face.safetensors", files / "ip-adapter-single.safetensors"
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, files / "two.safetensors")
    before = {name: one.clone() for name, one in model.denoiser.state_dict().items()}
    for given, message in (
        ("adapter", "wanted FILE=PICTURE or FILE=PICTURE:SCALE, got 'adapter'"),
        (
            f"{face}={files / 'fox.png'}",
            "reads the vector of a face, not a picture: no network that finds faces",
        ),
        (f"{single}={files / 'face.safetensors'}", "this image prompt reads a picture: pass image"),
        (
            f"{face}={files / 'two.safetensors'}",
            r"two\.safetensors: wanted the vector of a face, .* got \(2,\), \(",
        ),
        (f"{face}={files / 'none.npy'}", r"none\.npy cannot be read"),
        (f"{single}={files / 'none.png'}", r"none\.png"),
        (
            f"{files / 'eye.safetensors'}={files / 'fox.png'}",
            "holds image_encoder; wanted an image prompt",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            with_pictures(model, given)
    assert all(torch.equal(one, before[name]) for name, one in model.denoiser.state_dict().items())
    with pytest.raises(
        BadInput, match="is an image prompt, no part of a model: name it with a picture"
    ):
        checkpoints.read([folder("sd"), single])


def test_attachments_must_be_detached_before_saving(files, tmp_path):
    model = checkpoints.load(folder("sd"), "cpu", "fp32")
    held = with_control(model, f"{folder('controlnet/controlnet')}={files / 'fox.png'}", 32, 32)
    seeing = with_image_prompt(
        held, files / "ip-adapter-single.safetensors", encoder=files / "eye.safetensors"
    )
    shown = replace(seeing, denoiser=model.denoiser)
    writers = {"native": "native", "diffusers": "diffusers", "single-file": "single.safetensors"}
    for one, what in (
        (held, "control"),
        (shown, "an image prompt"),
        (seeing, "control and an image prompt"),
    ):
        for layout, name in writers.items():
            with pytest.raises(
                BadInput,
                match=rf"has {what} attached, .* remove it first, save\(detach\(model\)",
            ):
                save(one, tmp_path / name, layout)
            assert not (tmp_path / name).exists()
    bare = detach(seeing)
    assert (bare.denoiser, bare.conditioner) == (model.denoiser, model.conditioner)
    assert detach(model) is model
    assert bare.card.adapters == {}
    for layout, name in [*writers.items()][:2]:  # a single file would not tell such narrow norms
        save(bare, tmp_path / name, layout)
        again = checkpoints.read(tmp_path / name).denoiser.state_dict()
        assert all(torch.equal(again[key], one) for key, one in model.denoiser.state_dict().items())
    with pytest.raises(BadInput, match="has an image encoder, which no file of a model holds"):
        save(replace(model, image_encoder=EYE.build()), tmp_path / "other")


def test_adapters_reach_the_parts_beneath(files):
    model = checkpoints.load(folder("sd"), "cpu", "fp32")
    held = with_control(model, f"{folder('controlnet/controlnet')}={files / 'fox.png'}", 32, 32)
    both = with_image_prompt(held, files / "ip-adapter-face.safetensors")
    assert both.denoiser is held.denoiser
    assert adaptable_parts(both).keys() == adaptable_parts(model).keys() == {"denoiser", "tower.0"}
    assert Merged(adaptable_parts(both)).parts["denoiser"] is model.denoiser
