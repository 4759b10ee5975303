"""Licences of public weights: known or stated, and carried into what is made of them."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import making
import safelight
from attaching import with_control, with_loras
from recorded import Recording
from safelight import checkpoints
from safelight.errors import BadInput, Note
from safelight.evaluation.report import reconstruct_picture
from safelight.governance.licences import PartLicence
from safelight.inspection import inspect
from safelight.layouts.families import families
from safelight.pipeline import recipe
from safelight.settings import Settings
from safelight.tasks.text_to_image import TextToImage

USUAL = "not stated (public weights of Stable Diffusion 1: CreativeML OpenRAIL-M)"
LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def folder(tmp_path):
    """A toy of Stable Diffusion 1 in a folder of diffusers' layout."""
    return shutil.copytree(Recording("diffusers-folders").file("sd"), tmp_path / "sd")


def card(path, licence):
    (path / "README.md").write_text(
        f"---\nlicense: other\nlicense_name: {licence}\n---\n", encoding="utf-8"
    )


def lora(path, model, **metadata):
    width = model.denoiser.config.levels[0].width
    file = {
        f"{LORA}.lora_down.weight": torch.zeros(1, width),
        f"{LORA}.lora_up.weight": torch.zeros(width, 1),
    }
    save_file(file, path, metadata=metadata)
    return str(path)


def test_a_folder_states_it_in_its_card_and_all_layouts_carry_it(folder, tmp_path):
    assert checkpoints.read(folder).card.licence == USUAL
    card(folder, "foxes: 1.0")
    model = checkpoints.read(folder)
    assert model.card.licence == "foxes: 1.0"
    assert {one.part for one in model.licences} == {"autoencoder", "conditioner", "denoiser"}
    for layout in ("native", "diffusers"):
        checkpoints.save(model, tmp_path / layout, layout)
        assert checkpoints.read(tmp_path / layout).card.licence == "foxes: 1.0"
        assert inspect(str(tmp_path / layout))["card"]["licence"] == "foxes: 1.0"


def test_a_file_states_it_in_its_metadata(tmp_path):
    model = checkpoints.read(
        Recording("sd1-inpaint").file("model.safetensors"), {"licence": "foxes: 1.0"}
    )
    checkpoints.save(model, tmp_path / "one.safetensors", "single-file")
    assert checkpoints.read(tmp_path / "one.safetensors").card.licence == "foxes: 1.0"
    assert inspect(str(tmp_path / "one.safetensors"))["card"]["licence"] == "foxes: 1.0"
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        assert file.metadata()["modelspec.license"] == "foxes: 1.0"


def test_parts_of_several_files_keep_their_licences(folder, tmp_path):
    card(folder / "vae", "MIT")
    parts = [folder / "unet", folder / "vae", folder / "text_encoder"]
    model = checkpoints.read(parts)
    conditioner = "conditioner: not stated (public weights of CLIP: MIT)"
    want = f"denoiser: {USUAL}; autoencoder: MIT; {conditioner}"
    assert model.card.licence == want
    with pytest.warns(Note, match="the licence of unet is not stated"):
        checkpoints.save(model, tmp_path / "native")
    assert checkpoints.read(tmp_path / "native").licences == model.licences
    said = (tmp_path / "native" / "README.md").read_text(encoding="utf-8")
    assert "| autoencoder | vae | MIT |" in said
    with pytest.warns(Note, match="is not stated"):
        checkpoints.save(checkpoints.read(parts[:2]), tmp_path / "one", "diffusers")
    assert checkpoints.read(tmp_path / "one").card.licence == f"denoiser: {USUAL}; autoencoder: MIT"
    with pytest.warns(Note, match="the licence of one is denoiser: not stated"):
        checkpoints.save(checkpoints.read(tmp_path / "one"), tmp_path / "third")


def test_the_user_states_it_of_all_or_of_a_part(folder, tmp_path):
    card(folder / "vae", "MIT")
    parts = [folder / "unet", folder / "vae", folder / "text_encoder"]
    said = checkpoints.read(parts, {"licence.denoiser": "mine", "licence.conditioner": "MIT"})
    assert said.card.licence == "denoiser: mine; autoencoder, conditioner: MIT"
    assert checkpoints.read(parts, {"licence": "mine"}).card.licence == "mine"
    checkpoints.save(checkpoints.read(parts, {"licence": "mine"}), tmp_path / "native")
    assert checkpoints.read(tmp_path / "native", {"licence": "yours"}).card.licence == "yours"
    with pytest.raises(BadInput, match=r"unknown hint 'licence\.vae'"):
        checkpoints.read(parts, {"licence.vae": "MIT"})


def test_a_part_that_is_put_in_place_of_another_brings_its_licence(folder, tmp_path):
    checkpoints.save(checkpoints.read(folder, {"licence": "mine"}), tmp_path / "native")
    card(folder / "vae", "MIT")
    assert checkpoints.read([tmp_path / "native", folder / "vae"]).card.licence == (
        "conditioner, denoiser: mine; autoencoder: MIT"
    )


def test_licences_of_attachments_are_in_recipes_and_saved_models(folder, tmp_path):
    model = checkpoints.read(folder, {"licence": "mine"})
    stated = lora(tmp_path / "fox.safetensors", model, **{"modelspec.license": "CC-BY-NC-4.0"})
    word = tmp_path / "word.safetensors"
    save_file({"emb_params": torch.zeros(1, model.conditioner.encoders[0].width)}, word)
    with pytest.warns(
        Note, match=r"licence of fox.safetensors restricts commercial use: CC-BY-NC-4.0"
    ):
        made = with_loras(model, [f"{stated}:0.5"], [f"{word}:owl"])
    want = (
        "conditioner, denoiser, autoencoder: mine; adapter fox.safetensors: CC-BY-NC-4.0; "
        "embedding word.safetensors: not stated"
    )
    assert recipe(made, TextToImage("a fox"), Settings(seed=1))["model"]["licence"] == want
    with pytest.warns(Note, match="the licence of word.safetensors is not stated"):
        checkpoints.save(made, tmp_path / "native")
    assert checkpoints.read(tmp_path / "native").card.licence == want
    assert model.card.licence == "mine"


def test_control_has_a_licence_of_its_own(tmp_path):
    branch = shutil.copytree(
        Recording("diffusers-folders").file("controlnet/controlnet"), tmp_path / "edges"
    )
    card(branch, "openrail")
    Image.new("RGB", (48, 32)).save(tmp_path / "map.png")
    model = checkpoints.read(Recording("diffusers-folders").file("sd"), {"licence": "mine"})
    made = with_control(model, f"{branch}={tmp_path / 'map.png'}")
    assert made.licences[-1] == PartLicence("control", "edges", "openrail")
    assert made.card.licence.endswith("mine; control edges: openrail")


def test_loading_says_once_what_forbids_commerce(folder):
    with pytest.warns(Note, match=r"the licence of sd restricts commercial use: CC-BY-NC-4.0\."):
        safelight.load(folder, "cpu", "fp32", {"licence": "CC-BY-NC-4.0"})


@pytest.mark.parametrize("name", families())
def test_every_family_has_one(name):
    licence = families()[name].licence
    assert licence
    flux = {"flux-dev", "flux-fill", "flux-control", "flux2-dev", "flux2-klein"}
    restricted = name in flux | {"dit", "sd-turbo", "sdxl-turbo", "cosxl"}
    assert ("Non-Commercial" in licence or "NC" in licence) == restricted


def test_a_judgement_names_that_of_the_autoencoder(folder):
    card(folder / "vae", "MIT")
    model = safelight.load(folder / "vae", "cpu", "fp32")
    _, facts = reconstruct_picture(model, Image.new("RGB", (32, 32)))
    assert facts["model"]["licence"] == "MIT"


@pytest.fixture
def autoencoder(tmp_path):
    """That of the tiny model as other programs have it."""
    made = making.tiny_model()
    alone = safelight.model.LatentDiffusion(
        autoencoder=made.autoencoder, card=safelight.model.Card(name="ae")
    )
    with pytest.warns(Note, match="the licence of ae is not stated"):
        checkpoints.save(alone, tmp_path / "ae", "diffusers")
    return tmp_path / "ae"


def test_what_is_trained_in_foreign_latents_says_whose_they_are(
    autoencoder, pictures, tmp_path, monkeypatch, capsys
):
    tree = making.tables("denoising", pictures, autoencoder, loop__updates=1, licence="CC0")
    file = making.write_recipe(tmp_path / "recipe.toml", tree)
    asked = ("train", file, "--run", tmp_path / "a", "--quiet")
    assert making.exit_code(monkeypatch, *asked) == 0
    assert "note: the licence of ae is not stated" in capsys.readouterr().err.replace("\n", " ")
    trained = checkpoints.read(tmp_path / "a")
    assert trained.card.licence == "conditioner, denoiser: CC0; autoencoder: not stated"
    told = (
        "train",
        file,
        "--run",
        tmp_path / "b",
        "--quiet",
        "--hint",
        "licence=MIT",
        "--hint",
        "scale=0.5",
    )
    assert making.exit_code(monkeypatch, *told) == 0
    assert "licence" not in capsys.readouterr().err
    kept = json.loads((tmp_path / "b" / "config.json").read_text(encoding="utf-8"))
    assert kept["objective"]["hints"] == {"licence": "MIT", "scale": "0.5"}
    assert (
        checkpoints.read(tmp_path / "b").card.licence
        == "conditioner, denoiser: CC0; autoencoder: MIT"
    )


def test_convert_says_what_nobody_stated_and_takes_it(folder, tmp_path, monkeypatch, capsys):
    assert making.exit_code(monkeypatch, "convert", folder, tmp_path / "a") == 0
    assert f"note: the licence of sd is {USUAL}: if you know it" in capsys.readouterr().err
    hint = ("--hint", "licence=CreativeML OpenRAIL-M")
    assert making.exit_code(monkeypatch, "convert", folder, tmp_path / "b", *hint) == 0
    assert capsys.readouterr().err == ""
    assert checkpoints.read(tmp_path / "b").card.licence == "CreativeML OpenRAIL-M"
