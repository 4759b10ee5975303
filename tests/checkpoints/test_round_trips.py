"""Every family from a public file to ours and back, bit for bit, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from recorded import Recording
from safelight import checkpoints
from safelight.checkpoints.diffusers_folder import weights_in
from safelight.errors import BadInput
from safelight.inspection import inspect
from safelight.layouts.detection import BUFFERS
from safelight.pipeline import recipe
from safelight.settings import Settings
from safelight.tasks.text_to_image import TextToImage
from safelight.weights.files import open_weights

FILES = {
    "sd1": "model",
    "sd1-inpaint": "model",
    "sd1-edit": "model",
    "sd2-v": "model",
    "sd2-inpaint": "model",
    "sd2-depth": "model",
    "sdxl": "model",
    "sdxl-inpaint": "model",
    "sdxl-refiner": "model",
    "sd-x4-upscaler": "model",
    "sd3": "model",
    "sd35-medium": "model",
    "sd35-large": "model",
    "flux-dev": "flux1-dev",
    "flux-fill": "flux1-fill-dev",
    "flux-control": "flux1-control",
    "flux-schnell": "flux1-schnell",
    "flux2": "flux2-dev",
    "ldm-kl": "f8",
    "ldm-vq": "f8",
}
FAMILY = {"sd2-v": "sd2", "flux2": "flux2-dev", "ldm-kl": None, "ldm-vq": None}
FOLDERS = ("sd", "sd-inpaint", "sdxl", "sd3", "flux", "dit", "ldm-uncond")


def same(got, want):
    """Equal names, types and bits."""
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


def kept(file):
    """The weights in a file, without schedules, moving averages and position ids."""
    ignored = ("model_ema.", "cond_stage_model.transformer.text_model.embeddings.position_ids")
    ignored += ("conditioner.embedders.0.transformer.text_model.embeddings.position_ids",)
    return {
        name: one
        for name, one in file.items()
        if not BUFFERS.fullmatch(name) and not name.startswith(ignored)
    }


@pytest.mark.parametrize("name", FILES)
def test_a_single_file_comes_back_to_the_bit(name, tmp_path):
    path = Recording(name).file(f"{FILES[name]}.safetensors")
    model = checkpoints.read([path], {})
    assert model.card.origin.get("family") == FAMILY.get(name, name)
    checkpoints.save(model, tmp_path / "native")
    again = checkpoints.read(tmp_path / "native")
    checkpoints.save(again, tmp_path / "again.safetensors", "single-file")
    same(load_file(tmp_path / "again.safetensors"), kept(load_file(path)))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_comes_back_to_the_bit(name, tmp_path):
    recording = Recording("diffusers-folders")
    folder = recording.file(name)
    hints = (
        {"embedders": "each"} if name == "dit" else {}
    )  # this one was trained there, and says so by values alone
    model = checkpoints.read(folder, hints)
    checkpoints.save(model, tmp_path / "native")
    checkpoints.save(checkpoints.read(tmp_path / "native"), tmp_path / "again", "diffusers")
    parts = [
        path.parent for path in folder.glob("*/config.json") if path.parent.name != "scheduler"
    ]
    assert parts
    for part in parts:
        theirs, ours = weights_in(part, part), weights_in(tmp_path / "again" / part.name, tmp_path)
        prefix = (
            "text_model." if part.name == "text_encoder" and name == "flux" else ""
        )  # the public files have it
        same(
            dict(ours),
            {prefix + key: theirs[key] for key in theirs if not key.endswith("position_ids")},
        )
    index = json.loads((folder / "model_index.json").read_text())
    made = json.loads((tmp_path / "again" / "model_index.json").read_text())
    for key, value in index.items():
        if (
            isinstance(value, list)
            and value[0] is not None
            and key != "scheduler"
            and "tokenizer" not in key
        ):
            assert made[key] == value
    assert made["_class_name"] == index["_class_name"]
    again = checkpoints.read(tmp_path / "again", hints)
    assert again.process == model.process


def test_pictures_are_the_same_from_either_layout(tmp_path):
    """A file as a folder: the same model, and the same latents."""
    path = Recording("sd1").file("model.safetensors")
    model = checkpoints.read([path], {})
    checkpoints.save(model, tmp_path / "folder", "diffusers")
    other = checkpoints.read(tmp_path / "folder", {"heads": 4})
    for part in ("autoencoder", "conditioner", "denoiser"):
        ours, theirs = (vars(one)[part].state_dict() for one in (model, other))
        same(theirs, ours)


def test_the_running_mean_is_a_choice():
    path = Recording("sd1").file("model.safetensors")
    raw, mean = (
        checkpoints.read([path], {"ema": choice}).denoiser.state_dict() for choice in ("no", "yes")
    )
    assert any(not torch.equal(raw[name], mean[name]) for name in raw)
    whole = load_file(path)
    first = [one for one in mean.values() if one.shape == (32, 4, 3, 3)]
    assert torch.equal(first[0], whole["model_ema.diffusion_modelinput_blocks00weight"])
    with pytest.raises(BadInput, match="holds no running mean"):
        checkpoints.read([Recording("sd2-v").file("model.safetensors")], {"ema": "yes"})
    with pytest.raises(BadInput, match="wanted yes or no, got 'perhaps'"):
        checkpoints.read([path], {"ema": "perhaps"})


def test_several_files_make_one_model_and_what_is_missing_is_named(tmp_path):
    flux, pair = (
        Recording("flux-dev").file("flux1-dev.safetensors"),
        Recording("flux-dev").file("ae.safetensors"),
    )
    model = checkpoints.read([flux, pair], {})
    assert float(model.autoencoder.scale.mean[0]) == pytest.approx(0.1159)
    with pytest.raises(
        BadInput, match=r"has no conditioner \(such as clip_l.safetensors and t5xxl_"
    ):
        model.complete()
    folder = Recording("diffusers-folders").file("flux")
    parts = [folder / one for one in ("transformer", "vae", "text_encoder", "text_encoder_2")]
    assert checkpoints.read(parts, {}).conditioner is not None
    assert (
        checkpoints.read(parts[:3], {}).conditioner is None
    )  # what CLIP gives FLUX is no text to attend to
    folder = Recording("diffusers-folders").file("sd3")
    parts = [folder / one for one in ("transformer", "text_encoder", "text_encoder_2")]
    assert checkpoints.read(parts, {}).conditioner is not None  # SD 3 does without T5
    assert checkpoints.read(parts[:2], {}).conditioner is None
    with pytest.raises(BadInput, match="both hold a denoiser; give one of them"):
        checkpoints.read([flux, flux], {})


def test_hints_state_what_a_file_cannot():
    path = Recording("sd2-v").file("model.safetensors")
    assumed, said = (
        checkpoints.read([path], {}),
        checkpoints.read([path], {"prediction": "noise", "licence": "mine"}),
    )
    assert assumed.card.origin["assumed"] == {"prediction": "v"}
    assert type(assumed.process.prediction).__name__ == "V"
    assert type(said.process.prediction).__name__ == "Noise"
    assert said.card.licence == "mine"
    for hints, message in (
        ({"predicton": "v"}, "unknown hint 'predicton'; did you mean 'prediction'"),
        ({"prediction": "vv"}, "prediction"),
        ({"family": "sd4"}, "unknown family 'sd4'"),
        (
            {"scale": "big"},
            "hint: scale must be a number from .* got .big.; put it right or leave it out",
        ),
        ({"heads": "abc"}, "hint: heads must be a whole number"),
        ({"text_head_width": 1e12}, "hint: text_head_width must be a whole number from 1 to 65536"),
    ):
        with pytest.raises(BadInput, match=message):
            checkpoints.read([path], hints)


def test_pictures_name_the_files_that_they_were_made_with(tiny_folder):
    """Foreign files are identified by a fingerprint, a model of ours by a hash."""
    path = Recording("sd1-inpaint").file("model.safetensors")
    model = checkpoints.read([path], {"prediction": "noise"})
    found = recipe(model, TextToImage("x"), Settings(seed=1))["model"]
    assert found["hash"] == ""
    assert found["fingerprint"] == inspect(str(path))["card"]["origin"]["fingerprint"]
    assert found["hints"] == {"prediction": "noise"}
    assert all("model.safetensors" in file for file in found["files"])
    tiny = checkpoints.read(tiny_folder)
    assert "fingerprint" not in recipe(tiny, TextToImage("x"), Settings(seed=1))["model"]
    both = recipe(checkpoints.read([tiny_folder, path]), TextToImage("x"), Settings(seed=1))[
        "model"
    ]
    assert both["hash"] == ""
    assert both["files"] == [tiny.card.name, *found["files"]]
    assert both["fingerprint"] not in (tiny.card.hash, found["fingerprint"])
    other = Recording("sd35-large").file("model.safetensors")
    assert checkpoints.read([other], {}).card.origin["fingerprint"] != found["fingerprint"]


def test_errors_name_the_nearest_known_layout(tmp_path):
    file = load_file(Recording("sd1").file("model.safetensors"))
    less = {
        name.removeprefix("model.diffusion_model."): one
        for name, one in file.items()
        if ".out." not in name
    }
    less = {
        name: one
        for name, one in less.items()
        if name.startswith(("input_blocks", "middle", "output", "time"))
    }
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(
        BadInput, match=r"nearest is the denoiser in the names of ldm \(unet\): out.*missing"
    ):
        checkpoints.read([tmp_path / "less.safetensors"], {})
    save_file({"a.b": torch.ones(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadInput, match=r"no known part has names like a\.b"):
        checkpoints.read([tmp_path / "odd.safetensors"], {})
    save_file(file | {"mystery.weight": torch.ones(2)}, tmp_path / "more.safetensors")
    with pytest.raises(BadInput, match=r"mystery.weight belong to no part that is known"):
        checkpoints.read([tmp_path / "more.safetensors"], {})


def test_a_model_that_no_layout_holds_is_refused_before_anything_is_written(tiny_folder, tmp_path):
    tiny = checkpoints.read(tiny_folder)
    with pytest.raises(BadInput, match=r"no public layout holds a denoiser like this \(dit\)"):
        checkpoints.save(tiny, tmp_path / "x.safetensors", "single-file")
    with pytest.raises(BadInput, match=r"ends in \.safetensors"):
        checkpoints.save(tiny, tmp_path / "x.ckpt", "single-file")
    with pytest.raises(BadInput, match="unknown layout 'diffuser'; did you mean 'diffusers'"):
        checkpoints.save(tiny, tmp_path / "x", "diffuser")
    assert not list(tmp_path.iterdir())


def test_latents_of_a_scale_for_each_channel_are_folded_into_the_weights(tmp_path):
    from safelight.autoencoders.kl.config import Config
    from safelight.model import LatentDiffusion

    torch.manual_seed(0)
    autoencoder = (
        Config(width=8, multipliers=(1, 2), blocks=1, groups=4).build().requires_grad_(False)
    )
    autoencoder.scale.mean.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0]))
    autoencoder.scale.deviation.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0]))
    checkpoints.save(LatentDiffusion(autoencoder=autoencoder), tmp_path / "vae", "diffusers")
    other = checkpoints.read(tmp_path / "vae").autoencoder
    images = torch.randn(1, 3, 16, 16)
    one, two = autoencoder.encode(images), other.encode(images)
    torch.testing.assert_close(one.mean, two.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.deviation, two.deviation, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        autoencoder.decode(one.mean), other.decode(one.mean), atol=1e-5, rtol=1e-5
    )
    assert set(other.scale.mean.tolist()) == {0.0}
    assert (
        open_weights(tmp_path / "vae" / "diffusion_pytorch_model.safetensors").types[
            "quant_conv.weight"
        ]
        == "F32"
    )
