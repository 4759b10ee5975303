"""What a file or folder is: facts, true and from headers alone."""

import json
from dataclasses import asdict

import pytest
import torch
from PIL import Image
from rich.console import Console

import safelight
from safelight.config import dump
from safelight.errors import BadInput
from safelight.inspection import inspect, show
from safelight.media.pictures import write_png
from safelight.weights.stored import LazyTensor

PARTS = ("autoencoder", "conditioner", "denoiser")


def test_the_facts_of_a_model_are_true_and_no_weight_is_read(model, folder, monkeypatch):
    def never(*args: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(LazyTensor, "read", never)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", never)
    found = inspect(str(folder))
    assert found["what"] == "model"
    assert list(found["parts"]) == list(PARTS)
    for name, kind in zip(PARTS, ("kl", "text", "dit"), strict=True):
        part, facts = vars(model)[name], found["parts"][name]
        assert facts["kind"] == kind
        assert facts["config"] == json.loads(json.dumps({"kind": kind, **dump(part.config)}))
        assert facts["parameters"] == sum(parameter.numel() for parameter in part.parameters())
        assert facts["precision"] == "F32"
        assert facts["bytes"] == (folder / f"{name}.safetensors").stat().st_size
    assert found["schedule"]["kind"] == "cosine"
    assert found["prediction"] == {"kind": "v"}
    assert found["card"]["name"] == "füchse"
    assert found["card"]["size"] == [16, 24]
    assert json.loads(json.dumps(found)) == found


def test_the_precision_is_that_of_the_weights(model, tmp_path):
    model.denoiser.bfloat16()
    safelight.save(model, tmp_path / "half")
    found = inspect(str(tmp_path / "half"))
    assert [found["parts"][name]["precision"] for name in PARTS] == ["F32", "F32", "BF16"]


def test_the_facts_are_shown(model, folder, capsys):
    show(inspect(str(folder)), Console(width=200, no_color=True))
    text = capsys.readouterr().out
    count = sum(parameter.numel() for parameter in model.conditioner.parameters())
    for said in (
        "füchse",
        "24×16",
        "CC0",
        f"{count:,}",
        "schedule: kind cosine",
        "steps 3",
        "trained on: ",
    ):
        assert said in text


def test_the_recipe_of_a_picture_is_found(tmp_path, capsys):
    recipe = {"task": {"prompt": "füchse 🦊"}, "settings": asdict(safelight.Settings(steps=3))}
    write_png(Image.new("RGB", (4, 4)), tmp_path / "a.PNG", recipe)
    found = inspect(str(tmp_path / "a.PNG"))
    assert found == {"what": "picture", "recipe": recipe}
    show(found, Console())
    assert json.loads(capsys.readouterr().out) == recipe


def test_what_is_none_of_them_is_refused(folder, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    for name, message in (
        ("plain.png", "does not say how it was made"),
        ("broken.png", "broken.png: not a picture"),
    ):
        with pytest.raises(BadInput, match=message):
            inspect(str(tmp_path / name))
    with pytest.raises(BadInput, match="holds no model"):
        inspect(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("config.json", b"{", r"saved/config.json cannot be read"),
        ("config.json", b'{"format": 2}', "wanted a model folder of format 1, got 2"),
        ("config.json", b'{"format": 1, "denoiser": {}}', "denoiser: wanted a kind"),
        (
            "denoiser.safetensors",
            b"no",
            "saved/denoiser.safetensors is no file of weights: it begins with b'no'",
        ),
    ],
)
def test_a_damaged_model_is_one_sentence(folder, name, data, message):
    (folder / name).write_bytes(data)
    with pytest.raises(BadInput, match=message):
        inspect(str(folder))


def test_weights_that_do_not_fit_are_named(folder):
    (folder / "denoiser.safetensors").write_bytes((folder / "autoencoder.safetensors").read_bytes())
    with pytest.raises(
        BadInput, match=r"saved/denoiser.safetensors does not fit its configuration: .* is missing"
    ):
        inspect(str(folder))
