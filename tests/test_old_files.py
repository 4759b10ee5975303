"""What was written before 0.1.0 (tests/recorded/before-0.1) opens, with the same numbers."""

import json
import shutil

import pytest
import tomli_w

from old_files import FOLDER, PARTS, answers, close, lost, same_tensors, sampled, tensors
from safelight.checkpoints import load
from safelight.checkpoints.native_config import PARTS as SLOTS
from safelight.checkpoints.native_config import PROCESS, read_config
from safelight.checkpoints.state_dicts import fingerprint
from safelight.config import Slot, dump, read, read_toml
from safelight.inspection import inspect
from safelight.media.pictures import read_recipe
from safelight.settings import GUIDANCE, SAMPLER, SPACING
from safelight.training.loop import train
from safelight.training.recipe import Recipe
from safelight.training.run import open_run

EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
ROOMS = {"nn.towers": "nn.text_models"}  # those that have other names today
OPTIONS = [
    (ROOMS.get(room, room), options)
    for room, kinds in EXPECTED["kinds"].items()
    for options in kinds
]
WALKS = EXPECTED["walks"]


def walked(one):
    chosen = [one["settings"][name] for name in ("sampler", "spacing", "guidance")]
    return next((part["kind"] for part in chosen if isinstance(part, dict)), "all")


@pytest.mark.filterwarnings("ignore:this model runs without its T5 text encoder")
@pytest.mark.parametrize("name", EXPECTED["models"])
def test_a_model_answers_as_it_did(name):
    want = EXPECTED["models"][name]
    model = load(FOLDER / name, "cpu", "fp32")
    parts = {part: one for part in PARTS if (one := vars(model)[part]) is not None}
    assert set(parts) == set(want["tensors"])
    for part, module in parts.items():
        assert same_tensors(tensors(module.state_dict()), want["tensors"][part]), part
    assert close(answers(model, want["inputs"]), want["answers"])


@pytest.mark.parametrize(
    "name",
    [name for name, one in EXPECTED["models"].items() if "autoencoder" in one["fingerprints"]],
)
def test_an_autoencoder_is_known_by_the_hash_it_had(name):
    """Caches of latents and runs know it so."""
    autoencoder = load(FOLDER / name, "cpu", "fp32").autoencoder
    assert fingerprint(autoencoder) == EXPECTED["models"][name]["fingerprints"]["autoencoder"]


@pytest.mark.parametrize("name", EXPECTED["models"])
def test_a_model_is_inspected(name):
    found = inspect(str(FOLDER / name))
    written = json.loads((FOLDER / name / "config.json").read_text(encoding="utf-8"))
    assert found["what"] == "model"
    assert lost(written["card"] | {"hash": ""}, found["card"]) == []
    for slot in (*SLOTS, *PROCESS):
        if slot in written:
            shown = found["parts"][slot]["config"] if slot in SLOTS else found[slot]
            assert lost(written[slot], shown) == [], slot


@pytest.mark.parametrize(
    ("room", "options"), OPTIONS, ids=lambda one: one["kind"] if isinstance(one, dict) else one
)
def test_options_of_every_kind_are_read(room, options):
    slot = Slot(room if room != "diffusion.spacing" else "diffusion.spacing.*")
    again = slot.write(slot.read(options))
    assert lost(options, again) == []
    assert slot.write(slot.read(again)) == again


@pytest.mark.parametrize("one", WALKS, ids=walked)
def test_settings_lead_where_they_led(one, whole):
    assert close(sampled(whole, one["settings"]), one["ends"], 1e-3)


@pytest.fixture(scope="module")
def whole():
    return load(FOLDER / "whole", "cpu", "fp32")


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The files in a folder of their own, which is the current one: their paths are relative."""
    shutil.copytree(FOLDER, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize("stage", EXPECTED["runs"])
@pytest.mark.usefixtures("unchecked")
def test_a_run_goes_on_to_the_numbers_it_would_have_had(stage, copied, muon_in_bf16):
    want = EXPECTED["runs"][stage]
    run = open_run(copied / f"run-{stage}")
    assert inspect(str(run.folder))["run"]["updates"] == 8
    with run.claim():
        for _ in train(run, copied / "cache", lambda *_: None):
            pass
    assert run.checkpoints[-1].name == want["last"]
    lines = [
        {key: value for key, value in one.items() if key != "pictures_a_second"}
        for one in run.metrics()
    ]
    assert close(lines, want["metrics"], 1e-3)
    model = load(run.folder, "cpu", "fp32")
    for part, expected in want["tensors"].items():
        assert same_tensors(tensors(vars(model)[part].state_dict()), expected, 1e-3), part


def test_a_run_is_begun_again_from_the_recipe_in_its_folder(copied):
    """The recipe that a run kept is the one that its file says, whatever its options are called."""
    kept = json.loads((copied / "run-denoising" / "config.json").read_text(encoding="utf-8"))
    file = copied / "toy.toml"
    file.write_text(tomli_w.dumps(without_none(kept)), encoding="utf-8")
    run = open_run(file, copied / "run-denoising")
    assert dump(run.recipe) == dump(read(Recipe, kept))
    assert lost(kept, dump(run.recipe)) == []


def without_none(value):
    if isinstance(value, dict):
        return {key: without_none(one) for key, one in value.items() if one is not None}
    return [without_none(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", EXPECTED["pictures"])
def test_a_picture_says_how_it_was_made(name):
    want, got = EXPECTED["pictures"][name], read_recipe(FOLDER / f"{name}.png")
    assert got is not None
    assert lost(want, got) == []
    task = Slot("tasks").read(got["task"])
    assert lost(want["task"], dump(task)) == []
    for key, slot in (("sampler", SAMPLER), ("spacing", SPACING), ("guidance", GUIDANCE)):
        assert slot.write(slot.read(got["settings"][key])) == got["settings"][key], (
            "in the names of today"
        )
    assert inspect(str(FOLDER / f"{name}.png")) == {"what": "picture", "recipe": got}


@pytest.mark.parametrize("name", EXPECTED["recipes"])
def test_a_recipe_is_read(name):
    want, tree = EXPECTED["recipes"][name], read_toml(FOLDER / "recipes" / name)
    assert lost(want, dump(read(Recipe, tree))) == []


def test_the_embedded_model_says_what_it_said():
    config = read_config(FOLDER / "embedded")
    for name, slot in {**SLOTS, **PROCESS}.items():
        assert lost(config[name], slot.write(slot.read(config[name]))) == [], name
    tree = json.loads((FOLDER / "embedded" / "recipe.json").read_text(encoding="utf-8"))
    assert lost(tree, dump(read(Recipe, tree))) == []
