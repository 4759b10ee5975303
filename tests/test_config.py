"""Configuration: slots and the kinds in their rooms, reading, writing, overriding, and what is said
of mistakes."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import pytest

import safelight
from safelight.conditioners import joined, text
from safelight.config import Slot, dump, kind_of, override, read, read_toml
from safelight.diffusion.guidance.apg import APG
from safelight.diffusion.guidance.classifier import Classifier
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guidance.interval import Interval
from safelight.diffusion.guidance.none import Unguided
from safelight.diffusion.guidance.rescale import Rescale
from safelight.diffusion.samplers.euler import Euler
from safelight.diffusion.samplers.heun import Heun
from safelight.errors import BadInput
from safelight.training.optimisers import Adamw, Muon
from safelight.training.recipe import Recipe

SOURCE = Path(safelight.__file__).parent
FOLDERS = (
    "autoencoders",
    "conditioners",
    "data.sources",
    "denoisers",
    "diffusion.guidance",
    "tasks",
    "training.objectives",
)
DIFFUSION = ("density", "prediction", "schedule")
FILES = (*(f"diffusion.{name}" for name in DIFFUSION), "training.optimisers")
WANTED = {
    "paths": ("pictures",),
    "autoencoder": "runs/kl",
    "times": (1.0, 0.0),
    "sigmas": (9.0, 0.0),
    "parts": {"caption": joined.Part(text.Config())},
}  # values of fields that have no default
GUIDANCE = Slot("diffusion.guidance", number="classifier-free:scale")
SAMPLER, SPACING = Slot("diffusion.samplers.*"), Slot("diffusion.spacing.*")
RECIPE = {"objective": {"kind": "reconstruction"}, "data": {"kind": "folder", "paths": ["a"]}}


def recipe(**changes: Any) -> Recipe:
    return read(Recipe, RECIPE | changes)


def default(cls: type) -> Any:
    bare = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    return cls(**{name: WANTED[name] for name in bare})


@dataclass(frozen=True)
class Inner:
    depth: int = 1
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    sampler: Annotated[Any, SAMPLER] = field(default_factory=Euler)
    several: tuple[Annotated[Any, SAMPLER], ...] = ()


def test_a_room_is_every_folder_or_file_that_is_tested_here():
    root = Path(safelight.__file__).parent
    for room in FOLDERS:
        folder = root / room.replace(".", "/")
        files = {path.stem for path in folder.glob("*.py") if path.stem[0] != "_"}
        files |= {path.parent.name for path in folder.glob("*/config.py")}
        assert set(Slot(room).kinds()) == {name.replace("_", "-") for name in files}
        assert files
    for room in FILES:
        assert (root / f"{room.replace('.', '/')}.py").is_file()
        assert Slot(room).kinds() == sorted(map(kind_of, Slot(room).all()))
        assert Slot(room).all()


def test_a_folder_of_files_of_classes():
    for slot in (SAMPLER, SPACING):
        assert sorted(map(kind_of, slot.all())) == slot.kinds()
    kinds = {kind_of(cls): cls.__module__ for cls in SAMPLER.all()}
    assert SAMPLER.word == "sampler"
    assert kinds["heun"] == kinds["dpm2"] == "safelight.diffusion.samplers.heun"
    folder = Path(safelight.__file__).parent / "diffusion" / "samplers"
    files = {one.rpartition(".")[2] for one in kinds.values()}
    assert files == {path.stem for path in folder.glob("*.py")} - {"__init__"}
    with pytest.raises(BadInput, match=r"unknown sampler 'huen'; did you mean 'heun'\?"):
        SAMPLER.read("huen")
    with pytest.raises(BadInput, match=r"unipc\.variant: "):
        SAMPLER.read("unipc:variant=bh3")


def test_kinds_of_folders_are_listed_without_torch():
    code = f"""
import sys
from safelight.config import Slot
print([Slot(room).kinds() for room in {FOLDERS!r}])
print(Slot("diffusion.samplers.*").kinds(), Slot("diffusion.spacing.*").kinds())
assert not {{"torch", "safelight.autoencoders.kl"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'kl'" in done.stdout


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Euler(), "euler"),
        (Heun, "heun"),
        (ClassifierFree(), "classifier-free"),
        (Unguided(), "none"),
    ],
)
def test_a_kind_is_named_after_its_class_or_file(value, kind):
    assert kind_of(value) == kind


TORCHLESS = [
    f"safelight.{path.relative_to(SOURCE).with_suffix('').as_posix().replace('/', '.')}"
    for path in sorted(SOURCE.rglob("config.py"))
]


def test_the_config_of_a_package_is_read_and_written_without_torch():
    code = f"""
import sys
from importlib import import_module
from safelight.config import Slot, kind_of
for name in {TORCHLESS!r}:
    import_module(name)
for room in ("autoencoders", "denoisers", "denoisers.control"):
    for kind in Slot(room).kinds():
        config = Slot(room).read(kind)
        assert kind_of(config) == kind == Slot(room).write(config)["kind"]
assert "torch" not in sys.modules
"""
    assert "safelight.denoisers.unet.config" in TORCHLESS
    assert "safelight.denoisers.control.flux.config" in TORCHLESS
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_config_is_named_after_its_file():
    assert kind_of(Slot("tasks").config("text-to-image")) == "text-to-image"
    assert kind_of(Slot("autoencoders").config("kl")) == "kl"


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ({"kind": "interval", "scale": 6, "low": 0.1}, Interval(ClassifierFree(6), low=0.1)),
        ({"kind": "interval"}, Interval()),
        ("interval", Interval()),
        ("interval:scale=6,low=0.1", Interval(ClassifierFree(6), low=0.1)),
        ("interval:of=apg,scale=7,high=0.5", Interval(APG(7.0), high=0.5)),
        (
            "interval:of=rescale:of=apg,scale=7,phi=0.5,low=0.1",
            Interval(Rescale(APG(7.0), phi=0.5), low=0.1),
        ),
        (
            {"kind": "interval", "of": {"kind": "apg", "eta": 1}, "scale": 7},
            Interval(APG(7.0, eta=1.0)),
        ),
        ({"kind": "interval", "of": 5.0}, Interval(ClassifierFree(5.0))),
        (" interval : scale = 6 , low = 0.1 ", Interval(ClassifierFree(6), low=0.1)),
        ("none", Unguided()),
        (4.5, ClassifierFree(4.5)),
        (3, ClassifierFree(3)),
        ("4.5", ClassifierFree(4.5)),
        (Interval(low=0.2), Interval(low=0.2)),
    ],
)
def test_every_form_of_a_slot_is_read(given, got):
    assert GUIDANCE.read(given) == got


def test_an_option_may_be_a_list():
    assert Slot("training.optimisers").read("adamw:betas=[0.5, 0.6],decay=1") == Adamw(
        betas=(0.5, 0.6), decay=1
    )


@pytest.mark.parametrize(
    ("slot", "given", "message"),
    [
        (SAMPLER, 4.5, r"sampler: wanted a kind \(.*euler.*\) with its options, got 4.5"),
        (GUIDANCE, True, "guidance: wanted a kind"),
        (SAMPLER, {"eta": 1}, "sampler: wanted a kind"),
        (SAMPLER, None, "sampler: wanted a kind"),
        (SAMPLER, "eulr", "unknown sampler 'eulr'; did you mean 'euler'?"),
        (SAMPLER, "zzz", "unknown sampler 'zzz'; known: .*euler"),
        (SAMPLER, {"kind": ["euler"]}, "unknown sampler"),
        (SAMPLER, "euler:ete=1", "unknown key in sampler euler: 'ete'; did you mean 'eta'?"),
        (SAMPLER, "euler:eta", "sampler euler.eta: .*number"),
        (SAMPLER, "euler:eta=2", "eta must be from 0 to 1"),
        (
            GUIDANCE,
            "interval:hihg=1",
            "unknown key in guidance interval: 'hihg'; did you mean 'high'",
        ),
        (GUIDANCE, "interval:of=5,high=1,scale=3", "unknown key in guidance interval: 'scale'"),
        (GUIDANCE, "interval:of=apgg,scale=3", "unknown key in guidance interval: 'scale'"),
        (GUIDANCE, "interval:of=apgg", "unknown guidance 'apgg'; did you mean 'apg'"),
        (SAMPLER, Interval(), "unknown sampler 'interval'"),
        (SAMPLER, Inner(), "unknown sampler 'inner'"),
    ],
)
def test_what_a_slot_cannot_hold_is_refused(slot, given, message):
    with pytest.raises(BadInput, match=message):
        slot.read(given)


def test_what_was_given_in_python_is_named_but_cannot_be_read():
    def likes(noisy, level):
        return noisy.sum()

    written = json.loads(json.dumps(GUIDANCE.write(Classifier(likes))))
    assert written["log_probability"] == "function likes"
    with pytest.raises(BadInput, match="log_probability: should be callable, got 'function likes'"):
        GUIDANCE.read(written)


@pytest.mark.parametrize("room", [*FOLDERS, *FILES, SAMPLER.room, SPACING.room])
def test_every_kind_survives_being_written_and_read(room):
    for cls in set(Slot(room).all()) - {Classifier}:
        value = default(cls)
        written = json.loads(json.dumps(Slot(room).write(value)))
        assert written["kind"] == kind_of(value)
        assert Slot(room).read(written) == value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "objective": {
                "kind": "denoising",
                "autoencoder": "runs/kl",
                "settings": {"guidance": "interval:scale=3"},
            }
        },
        {
            "validation": {"kind": "folder", "paths": ["b", "c.zip"], "only": {"split": "test"}},
            "optimiser": "muon",
        },
        {
            "framing": {"size": 64, "mirror": True},
            "rate": {"peak": 1e-3, "decay": "cosine"},
            "seed": 2**62,
        },
    ],
)
def test_a_recipe_survives_being_written_and_read(changes):
    whole = recipe(**changes)
    assert read(Recipe, json.loads(json.dumps(dump(whole)))) == whole
    assert (whole == recipe()) is (changes == {})


def test_tables_within_tables_are_read():
    given = {
        "inner": {"depth": 2},
        "many": [{"depth": 3}, {}],
        "maybe": {"names": {"a": "b"}},
        "several": ["heun"],
    }
    assert read(Outer, given) == Outer(
        Inner(2), (Inner(3), Inner()), Inner(names={"a": "b"}), several=(Heun(),)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inmer": {}}, "unknown key in the configuration: 'inmer'; did you mean 'inner'?"),
        ({"inner": {"depht": 1}}, "unknown key in inner: 'depht'; did you mean 'depth'?"),
        (
            {"many": [{"depth": 1}, {"depht": 1}]},
            "unknown key in many: 'depht'; did you mean 'depth'?",
        ),
        ({"maybe": {"depht": 1}}, "unknown key in maybe: 'depht'; did you mean 'depth'?"),
        ({"inner": 3}, "inner: .* got 3"),
        ({"inner": {"depth": "deep"}}, "inner.depth: .*integer.*, got 'deep'"),
        ({"many": [{"depth": 1}, {"depth": 1.5}]}, "many.1.depth: .*integer.*, got 1.5"),
        ({"sampler": "eulr"}, "sampler: unknown sampler 'eulr'; did you mean 'euler'?"),
        (
            {"several": ["heun", {"kind": "euler", "eta": "x"}]},
            "several.1: sampler euler.eta: .*number.*, got 'x'",
        ),
        (3, "configuration: wanted a table of options, got 3"),
    ],
)
def test_a_mistake_is_named_with_its_place(given, message):
    with pytest.raises(BadInput, match=message):
        read(Outer, given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loop": {"updats": 3}}, "unknown key in loop: 'updats'; did you mean 'updates'?"),
        ({"loop": {"updates": 0}}, "^loop: wanted updates ≥ 1"),
        ({"optimiser": "adamv"}, "optimiser: unknown optimiser 'adamv'; did you mean 'adamw'?"),
        (
            {"objective": {"kind": "reconstruction", "autoencoder": {"kind": "kl", "width": "x"}}},
            "^objective: autoencoder kl.width: .*integer.*, got 'x'",
        ),
        (
            {"objective": {"kind": "reconstruction", "autoencoder": {"kind": "kl", "width": 7}}},
            "^objective reconstruction.autoencoder: kl: every level's width",
        ),
    ],
)
def test_a_mistake_in_a_recipe_is_said_once(changes, message):
    with pytest.raises(BadInput, match=message):
        recipe(**changes)


def test_a_missing_key_is_named():
    with pytest.raises(BadInput, match="objective: this key is required but missing"):
        read(Recipe, {"data": RECIPE["data"]})


def test_overriding_reads_toml_values_and_replaces_slots():
    base = recipe()
    changes = ["rate.peak=1e-3", "title=hi you", "optimiser=muon:decay=0.1", "framing.mirror=true"]
    changed = override(Recipe, base, [*changes, 'data.paths=["b", "c"]', " loop.batch = 8"])
    assert changed.rate.peak == 1e-3
    assert changed.title == "hi you"
    assert changed.optimiser == Muon(decay=0.1)
    assert changed.framing.mirror is True
    assert changed.data.paths == ("b", "c")
    assert changed.loop.batch == 8
    assert changed.loop.updates == base.loop.updates
    assert override(Recipe, base, []) == base == recipe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loop.updats=3", "unknown key in 'loop.updats': 'updats'; did you mean 'updates'?"),
        ("lop.updates=3", "unknown key in 'lop.updates': 'lop'; did you mean 'loop'?"),
        ("seed.a=3", "unknown key in 'seed.a': 'a'; known: none"),
        ("validation.paths=3", "unknown key in 'validation.paths': 'paths'"),
        ("seed", "--set wants key=value, got 'seed'"),
        ("seed=x", "seed: .*integer.*, got 'x'"),
        ("optimiser=adamv", "did you mean 'adamw'?"),
    ],
)
def test_an_override_of_nothing_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        override(Recipe, recipe(), [change])


def test_toml_files_are_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('title = "füchse"\n[loop]\nupdates = 3\n', encoding="utf-8")
    assert read_toml(path) == {"title": "füchse", "loop": {"updates": 3}}


@pytest.mark.parametrize("data", [b"a = ", b"\xff = 1", b"a = 1\na = 2\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path, data):
    path = tmp_path / "recipe.toml"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=rf"{re.escape(str(path))}' cannot be read as TOML: "):
        read_toml(path)
    with pytest.raises(BadInput, match=r"there is no file '.*none.toml'"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="cannot be read as TOML"):
        read_toml(tmp_path)
