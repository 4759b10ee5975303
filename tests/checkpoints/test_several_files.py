"""Several files as one model: what replaces what, what is missing, what is not used."""

import json
import re
import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from attaching import with_control
from recorded import Recording
from safelight import checkpoints, cli
from safelight.errors import BadInput
from safelight.inspection import inspect, show


def folder(name):
    return Recording("diffusers-folders").file(name)


def test_an_autoencoder_alone_replaces_that_of_an_earlier_file(tmp_path):
    other = checkpoints.read(folder("sd/vae"))
    with torch.no_grad():
        next(other.autoencoder.parameters()).add_(1)
    checkpoints.save(other, tmp_path / "vae", "diffusers")
    model = checkpoints.read([folder("sd"), tmp_path / "vae"])
    state = model.autoencoder.state_dict()
    assert all(
        torch.equal(state[name], one) for name, one in other.autoencoder.state_dict().items()
    )
    assert float(model.autoencoder.scale.deviation[0]) == pytest.approx(1 / 0.18215)
    with pytest.raises(
        BadInput, match="both hold an autoencoder; give one of them, or a lone autoencoder last"
    ):
        checkpoints.read([tmp_path / "vae", folder("sd")])
    with pytest.raises(BadInput, match="both hold a denoiser"):
        checkpoints.read([folder("sd/unet"), folder("sd/unet")])


def test_a_text_encoder_alone_replaces_one_like_it(tmp_path):
    """Where the file holds one alone, as those of finely tuned towers do."""
    shutil.copytree(folder("sd/text_encoder"), tmp_path / "tower")
    (file,) = (tmp_path / "tower").glob("*.safetensors")
    state = {
        name: one + 1 if one.is_floating_point() else one for name, one in load_file(file).items()
    }
    save_file(state, file)
    one, two = (
        checkpoints.read([folder("sd"), *more]).conditioner.state_dict()
        for more in ([], [tmp_path / "tower"])
    )
    name = "encoders.0.network.embedding.weight"
    assert torch.equal(two[name], one[name] + 1)


@pytest.mark.parametrize("beside", [True, False])
def test_a_text_encoder_uses_the_tokenizer_of_its_folder(tmp_path, beside):
    shutil.copytree(folder("sd/text_encoder"), tmp_path / "text_encoder")
    shutil.copytree(
        folder("sd/tokenizer"),
        tmp_path / ("tokenizer" if beside else "text_encoder"),
        dirs_exist_ok=not beside,
    )
    model = checkpoints.read([folder("sd/unet"), tmp_path / "text_encoder"])
    words = "encoders.0.tokenizer._extra_state"
    whole = checkpoints.read(folder("sd")).conditioner.state_dict()
    assert torch.equal(model.conditioner.state_dict()[words], whole[words])


def test_a_text_encoder_that_is_not_used_is_refused():
    with pytest.raises(
        BadInput,
        match="text_encoder_3 is a text encoder that Stable Diffusion 1 does not have; leave",
    ):
        checkpoints.read([folder("sd"), folder("sd3/text_encoder_3")])


def test_what_is_lacking_is_named_with_the_files_that_hold_it(capsys):
    found = inspect(str(folder("flux/transformer")))
    lacking = found["card"]["origin"]["lacking"]
    assert lacking == {
        "autoencoder": "ae.safetensors",
        "conditioner": "clip_l.safetensors and t5xxl_fp16.safetensors",
    }
    show(found, Console(width=200))
    assert "lacking: autoencoder (such as ae.safetensors), conditioner" in capsys.readouterr().out
    with pytest.raises(
        BadInput, match=r"no autoencoder \(such as ae.safetensors\), conditioner \(such as clip_l"
    ):
        checkpoints.read(folder("flux/transformer")).complete()
    parts = [str(folder(f"flux/{name}")) for name in ("transformer", "vae", "text_encoder")]
    lacking = inspect(parts)["card"]["origin"]["lacking"]
    assert lacking == {"conditioner": "t5xxl_fp16.safetensors"}
    assert "lacking" not in inspect(str(folder("sd")))["card"]["origin"]
    assert "lacking" not in inspect(str(folder("sd/vae")))["card"]["origin"]


def test_what_a_denoiser_is_conditioned_on_is_shown(capsys):
    found = inspect(str(folder("flux")))
    config = found["parts"]["denoiser"]["config"]
    assert found["conditioning"] == {
        "tokens": config["text_width"],
        "vector": config["vector_width"],
        "guidance": True,
    }
    show(found, Console(width=200))
    said = capsys.readouterr().out
    assert re.search(r"conditioning: tokens \(\d+\), vector \(\d+\), guidance\n", said)
    assert "spacing shifted-by-tokens:low_tokens=256," in said


@pytest.mark.parametrize("name", ["fox.safetensors", "fox/fox.safetensors", "a/b/c"])
def test_a_file_that_is_not_there_is_no_model_of_another_name(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["safelight", "generate", "x", "-m", name])
    with pytest.raises(SystemExit) as end:
        cli._main()
    assert end.value.code == 2
    assert f"there is no file or folder '{name}'" in capsys.readouterr().err


def test_only_files_of_weights_are_looked_at_together(tmp_path):
    with pytest.raises(
        BadInput, match="'stickers' is no file or folder of weights of another program"
    ):
        inspect([str(folder("sd")), "stickers"])


def test_pictures_are_as_large_as_a_folder_says_its_network_was_made_for(tmp_path):
    made = shutil.copytree(folder("sd"), tmp_path / "sd")
    config = json.loads((made / "unet" / "config.json").read_text())
    factor = checkpoints.read(made).autoencoder.factor
    for side, want in ((96, 96 * factor), (1 << 16, 512)):
        (made / "unet" / "config.json").write_text(json.dumps({**config, "sample_size": side}))
        assert checkpoints.read(made).card.size == (want, want)
    model = checkpoints.read(folder("sdxl"))
    checkpoints.save(model, tmp_path / "again", "diffusers")
    told = json.loads((tmp_path / "again" / "unet" / "config.json").read_text())
    assert told["sample_size"] * model.autoencoder.factor == model.card.size[0]
    assert told["addition_time_embed_dim"] == model.conditioner.config.frequencies


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        BadInput, match=r"nothing\.bin' is not there; wanted a file of weights, or the folder"
    ):
        with_control(
            checkpoints.read(folder("sd")), f"{tmp_path / 'nothing.bin'}={tmp_path / 'a.png'}"
        )
