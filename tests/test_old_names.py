"""The table of former names: made-up rows open files that use them, and the real rows are sound."""

import json
import shutil
from dataclasses import fields
from importlib import import_module

import pytest
from safetensors.torch import load_file, save_file

from old_files import FOLDER, answers, close, same_tensors, tensors
from safelight import old_names
from safelight.checkpoints import load
from safelight.checkpoints.hints import check_hints
from safelight.checkpoints.state_dicts import fingerprint
from safelight.config import Slot, read
from safelight.denoisers.unet.config import Config as UNet
from safelight.errors import BadInput
from safelight.files import sha256
from safelight.inspection import inspect
from safelight.media.pictures import read_recipe, write_png
from safelight.old_names import OldName, OldNames, place
from safelight.settings import GUIDANCE, SAMPLER
from safelight.training.loop import train
from safelight.training.recipe import Recipe
from safelight.training.run import open_run

EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
DAY = "2026-12-01"
TABLE = OldNames(
    OldName(DAY, *row)
    for row in [
        ("kind", "conditioners", "lexical", "text"),
        ("kind", "denoisers", "trunk", "dit"),
        ("kind", "diffusion.samplers", "eulerian", "euler"),
        ("kind", "diffusion.guidance", "projected", "apg"),
        ("kind", "training.objectives", "diffusing", "denoising"),
        ("option", "conditioners.text", "span", "length"),
        ("option", "denoisers.dit", "layers", "depth"),
        ("option", "denoisers.unet.Level", "broad", "width"),
        ("option", "diffusion.samplers.euler", "puff", "eta"),
        ("option", "diffusion.guidance.interval", "upper", "high"),
        ("option", "diffusion.guidance.apg", "force", "scale"),
        ("option", "hint", "sort", "part"),
        ("option", "card.Card", "words", "summary"),
        ("option", "picture", "weights", "model"),
        ("option", "picture.model", "called", "name"),
        ("option", "run.data", "basis", "parents"),
        ("option", "settings.Settings", "rounds", "steps"),
        ("option", "tasks.text-to-image", "words", "prompt"),
        ("option", "training.objectives.denoising", "blank", "dropout"),
        ("option", "training.recipe.Loop", "turns", "updates"),
        ("option", "training.recipe.Recipe", "pace", "rate"),
        ("value", "denoisers.dit.text", "beside", "cross"),
        ("value", "hint.part", "net", "denoiser"),
        ("value", "model.Card.origin", "turns", "updates"),
        ("tensor", "denoisers.dit", "layers.*", "blocks.*"),
        ("tensor", "denoisers.dit", "clock", "time"),
        ("tensor", "autoencoders.kl", "inward", "encoder"),
        ("tensor", "*", "**.gain", "**.weight"),
    ]
)
OLD = {  # kind of part: pieces of today's names, and what they are in the made-up files
    "denoiser": (("blocks.", "layers."), ("time.", "clock.")),
    "autoencoder": (("encoder.", "inward."),),
    "conditioner": ((".weight", ".gain"),),
}


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(old_names, "TABLE", TABLE)


def older(part: str, name: str) -> str:
    """The name that a tensor has in the made-up files."""
    for now, before in OLD[part]:
        if name.startswith(now) or (now.startswith(".") and name.endswith(now)):
            name = name.replace(now, before, 1)
    return name


def made_older(source, target):
    """A model folder with the names of the made-up table."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["conditioner"]["kind"], config["denoiser"]["kind"] = "lexical", "trunk"
    config["conditioner"]["span"] = config["conditioner"].pop("length")
    config["denoiser"]["layers"], config["denoiser"]["text"] = (
        config["denoiser"].pop("depth"),
        "beside",
    )
    config["card"]["words"] = config["card"].pop("summary")
    config["card"]["settings"]["rounds"] = config["card"]["settings"].pop("steps")
    config["card"]["origin"] = {"turns": config["card"]["origin"]["updates"]}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for part in OLD:
        file = target / f"{part}.safetensors"
        save_file({older(part, name): value for name, value in load_file(file).items()}, file)
    manifest = {
        file.name: sha256(file) for file in sorted(target.iterdir()) if file.name != "manifest.json"
    }
    (target / "manifest.json").write_text(json.dumps({"sha256": manifest}), encoding="utf-8")
    return target


@pytest.mark.usefixtures("table")
def test_old_kinds_options_and_values_are_read():
    assert SAMPLER.read("eulerian:puff=0.5") == SAMPLER.read("euler:eta=0.5")
    assert SAMPLER.read({"kind": "eulerian", "puff": 0.5}) == SAMPLER.read("euler:eta=0.5")
    assert GUIDANCE.read("interval:of=projected,force=3,upper=0.5") == GUIDANCE.read(
        "interval:of=apg,scale=3,high=0.5"
    )
    inner = {"kind": "interval", "of": {"kind": "projected", "force": 3.0}, "upper": 0.5}
    assert GUIDANCE.read(inner) == GUIDANCE.read("interval:of=apg,scale=3,high=0.5")
    assert read(UNet, {"levels": [{"broad": 32}], "text_width": 8}).levels[0].width == 32
    assert Slot("denoisers").read("trunk:text=beside").text == "cross"
    assert check_hints({"sort": "net"}) == {"part": "denoiser"}


@pytest.mark.usefixtures("table")
def test_an_option_by_both_its_names_is_refused():
    with pytest.raises(BadInput, match=r"'puff' is the former name of 'eta', and both are given"):
        SAMPLER.read("euler:puff=0.5,eta=0.5")


def test_without_a_row_an_old_name_is_no_name():
    with pytest.raises(BadInput, match="eulerian"):
        SAMPLER.read("eulerian")
    with pytest.raises(BadInput, match="puff"):
        SAMPLER.read("euler:puff=0.5")


def test_a_model_with_old_names_answers_as_one_with_todays(tmp_path, monkeypatch):
    folder = made_older(FOLDER / "whole", tmp_path / "old")
    with pytest.raises(BadInput):
        load(folder, "cpu", "fp32")
    monkeypatch.setattr(old_names, "TABLE", TABLE)
    want = EXPECTED["models"]["whole"]
    model = load(folder, "cpu", "fp32")
    assert close(answers(model, want["inputs"]), want["answers"])
    assert model.card.summary == "A toy."
    assert model.card.settings.steps == 3
    assert model.card.origin == {"updates": 3}
    found = inspect(str(folder))
    assert found["parts"]["denoiser"]["kind"] == "dit"
    assert found["parts"]["denoiser"]["config"]["depth"] == 2
    assert found["parts"]["denoiser"]["parameters"] == sum(
        one.numel() for one in model.denoiser.parameters()
    )


def test_a_tensor_by_both_its_names_is_refused(tmp_path, monkeypatch):
    folder = made_older(FOLDER / "whole", tmp_path / "old")
    monkeypatch.setattr(old_names, "TABLE", TABLE)
    file = folder / "autoencoder.safetensors"
    held = load_file(file)
    name = next(one for one in held if one.startswith("inward."))
    save_file({**held, name.replace("inward.", "encoder."): held[name].clone()}, file)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["sha256"][file.name] = sha256(file)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BadInput, match="one of them is too many"):
        load(folder, "cpu", "fp32")


def test_a_part_keeps_the_hash_that_it_had_by_its_old_names(monkeypatch):
    autoencoder = load(FOLDER / "whole", "cpu", "fp32").autoencoder
    today = fingerprint(autoencoder)
    state = autoencoder.state_dict()
    named = {older("autoencoder", name): value for name, value in state.items()}
    monkeypatch.setattr(old_names, "TABLE", TABLE)
    kept = fingerprint(autoencoder)
    assert kept != today
    monkeypatch.setattr(old_names, "TABLE", OldNames())
    monkeypatch.setattr(autoencoder, "state_dict", lambda: named)
    assert fingerprint(autoencoder) == kept


@pytest.mark.usefixtures("unchecked")
def test_a_run_with_old_names_goes_on(tmp_path, monkeypatch, muon_in_bf16):
    for name in ("shapes.zip", "whole", "run-denoising"):
        (shutil.copytree if (FOLDER / name).is_dir() else shutil.copy)(
            FOLDER / name, tmp_path / name
        )
    folder = tmp_path / "run-denoising"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        old_names,
        "TABLE",
        OldNames([*old_names.ROWS, *(row for row in TABLE.rows if row.where != "autoencoders.kl")]),
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["pace"], config["loop"]["turns"] = config.pop("rate"), config["loop"].pop("updates")
    objective = config["objective"]
    objective |= {"kind": "diffusing", "blank": objective.pop("dropout")}
    objective["denoiser"] |= {
        "kind": "trunk",
        "layers": objective["denoiser"].pop("depth"),
        "text": "beside",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    data["basis"] = data.pop("stands on")
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    file = folder / "checkpoints" / "0000005" / "state.safetensors"
    changed = {renamed_key(name): value for name, value in load_file(file).items()}
    assert any("optimiser/denoiser/denoiser.layers.0" in name for name in changed)
    assert any("ema/denoiser/denoiser.clock" in name for name in changed)
    save_file(changed, file)
    want = EXPECTED["runs"]["denoising"]
    assert inspect(str(folder))["run"]["updates"] == 8
    assert inspect(str(folder))["run"]["objective"] == "denoising"
    run = open_run(folder)
    with run.claim():
        for _ in train(run, tmp_path / "cache", lambda *_: None):
            pass
    lines = [
        {key: value for key, value in one.items() if key != "pictures_a_second"}
        for one in run.metrics()
    ]
    assert close(lines, want["metrics"], 1e-3)
    model = load(folder, "cpu", "fp32")
    for part, expected in want["tensors"].items():
        assert same_tensors(tensors(vars(model)[part].state_dict()), expected, 1e-3), part


def renamed_key(key: str) -> str:
    """A key of a checkpoint, with the names of the made-up table."""
    what, group, name = key.split("/", 2)
    if what == "weights":
        return f"{what}/{group}/{older(group, name)}"
    name, slash, memory = name.partition("/")
    part, _, name = name.partition(".")
    return f"{what}/{group}/{part}.{older(part, name)}{slash}{memory}"


def test_the_recipe_in_a_picture_is_read_by_todays_names(tmp_path, monkeypatch):
    from PIL import Image

    today = EXPECTED["pictures"]["adapted"]
    recipe = json.loads(json.dumps(today))
    recipe["weights"] = recipe.pop("model")
    recipe["weights"]["called"] = recipe["weights"].pop("name")
    recipe["task"]["words"] = recipe["task"].pop("prompt")
    recipe["settings"]["rounds"] = recipe["settings"].pop("steps")
    recipe["settings"]["sampler"] = {"kind": "eulerian", "puff": 0.5}
    recipe["settings"]["guidance"] = {
        "kind": "interval",
        "of": {"kind": "projected", "force": 3.0},
        "upper": 0.5,
    }
    recipe["companions"] = {"weak": {"called": "b"}}
    write_png(Image.new("RGB", (8, 8)), tmp_path / "old.png", recipe)
    assert read_recipe(tmp_path / "old.png") == recipe
    monkeypatch.setattr(old_names, "TABLE", TABLE)
    found = read_recipe(tmp_path / "old.png")
    assert found.pop("companions") == {"weak": {"name": "b"}}
    assert found["settings"].pop("sampler") == {"kind": "euler", "eta": 0.5}
    inner = {"kind": "apg", "scale": 3.0}
    assert found["settings"].pop("guidance") == {"kind": "interval", "of": inner, "high": 0.5}
    for name in ("sampler", "guidance"):
        del today["settings"][name]
    assert found == today


@pytest.mark.usefixtures("table")
def test_a_recipe_of_old_names_is_read():
    old = {
        "objective": {"kind": "diffusing", "autoencoder": "x", "blank": 0.2},
        "data": "folder:paths=['x']",
        "pace": {"peak": 0.5},
        "loop": {"turns": 7},
    }
    recipe = read(Recipe, old)
    assert (recipe.objective.dropout, recipe.rate.peak, recipe.loop.updates) == (0.2, 0.5, 7)


def test_wildcards_keep_what_they_stand_for():
    names = OldNames(
        [
            OldName(DAY, "tensor", "x", "a.*.b.*", "c.*.d.*"),
            OldName(DAY, "tensor", "x", "e", "f.g"),
            OldName(DAY, "tensor", "*", "**.in", "**.out"),
        ]
    )
    pairs = {"a.0.b.1.weight": "c.0.d.1.weight", "e.bias": "f.g.bias", "eel.bias": "eel.bias"}
    assert {names.first("x", new): new for new in pairs.values()} == pairs
    assert names.first("x", "h.out.weight") == "h.out.weight"  # a row for all may mean other parts
    pairs |= {
        "in.weight": "out.weight",
        "h.0.in.weight": "h.0.out.weight",
        "inn.weight": "inn.weight",
    }
    pairs |= {"a.3.b.4.in": "c.3.d.4.out"}
    assert names.tensors("x", pairs, pairs.values()) == pairs
    assert names.tensors("x", pairs, pairs) == {
        name: name for name in pairs
    }  # a part that wants the old ones
    assert names.tensors("y", ["e.bias"], ["f.g.bias"]) == {"e.bias": "e.bias"}


def test_a_name_that_is_old_and_new_is_refused():
    with pytest.raises(ValueError, match="both an old and a new name"):
        OldNames([OldName(DAY, "option", "x", "a", "b"), OldName(DAY, "option", "x", "b", "c")])


def without_class(where: str) -> bool:
    return where in ("hint", "picture", "picture.model") or where.startswith("run.")


def slot_of(room: str) -> Slot:
    several_a_file = ("diffusion.samplers", "diffusion.spacing")
    return Slot(f"{room}.*" if room in several_a_file else room)


def configs(where: str) -> type:
    """The dataclass that a row of options names."""
    room, _, kind = where.rpartition(".")
    if kind[:1].isupper():
        module = import_module(f"safelight.{room}")
        if "__path__" in vars(module):  # a network's package: its configuration is beside it
            module = import_module(f"safelight.{room}.config")
        return getattr(module, kind)
    return slot_of(room).config(kind)


def unsound(table: OldNames) -> list[str]:
    """Rows whose new name is none today, or whose old name is one."""
    found = []
    for row in table.rows:
        if row.what == "kind":
            names = set(slot_of(row.where).kinds())
        elif row.what == "option" and not without_class(row.where):
            names = {one.name for one in fields(configs(row.where))}
        else:
            continue
        if row.new not in names or row.old in names:
            found.append(f"{row.what} of {row.where}: {row.old} -> {row.new}")
    return found


def test_rows_lead_from_names_that_are_gone_to_names_that_are_here():
    assert unsound(old_names.TABLE) == []
    assert unsound(TABLE) == []
    stray = [
        OldName(DAY, "kind", "conditioners", "gone", "lost"),
        OldName(DAY, "kind", "conditioners", "label", "text"),
        OldName(DAY, "option", "training.recipe.Loop", "a", "b"),
        OldName(DAY, "option", "diffusion.samplers.euler", "s_noise", "eta"),
    ]
    assert len(unsound(OldNames(stray))) == 4


def test_rows_are_dated_and_once_each():
    rows = old_names.TABLE.rows
    assert [row.date for row in rows] == sorted(row.date for row in rows)
    assert len({(row.what, row.where, row.old) for row in rows}) == len(rows)


def test_places_are_named_as_rows_name_them():
    assert place(UNet) == "denoisers.unet"
    assert place(Slot("denoisers").config("plain-dit")) == "denoisers.plain-dit"
    assert place(Recipe) == "training.recipe.Recipe"
    assert place(None) == ""
