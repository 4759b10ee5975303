"""Damaged or malicious configurations: the same network, or an error that says why not."""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recorded import Recording
from safelight import checkpoints
from safelight.checkpoints.diffusers_folder import read_parts
from safelight.checkpoints.plan import plan_load
from safelight.errors import BadInput
from safelight.layouts import schedulers

HARM: dict[str, Callable[[Any], Any]] = {
    "a word": lambda value: "abc",
    "far below nothing": lambda value: -(10**7),
    "absurd": lambda value: 10**12,
    "without end": lambda value: 10**400,
    "no number": lambda value: float("nan"),
    "too many": lambda value: [value] * 65,
    "one too many": lambda value: [value] * 5,
    "an object": lambda value: {"a": value},
}
NESTED = "[" * 100_000
PARTS = [
    *(
        "sd/unet",
        "sd/vae",
        "sd/text_encoder",
        "sdxl/unet",
        "sdxl/text_encoder_2",
        "sd3/transformer",
    ),
    *(
        "sd3/text_encoder_3",
        "flux/transformer",
        "ldm-uncond/unet",
        "ldm-uncond/vqvae",
        "controlnet/controlnet",
    ),
]


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a configuration there are numbers."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(one, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def harmed(value: Any, path: tuple[Any, ...], harm: Callable[[Any], Any]) -> Any:
    """The configuration with one number in it made another thing."""
    if not path:
        return harm(value)
    entries = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    entries[path[0]] = harmed(entries[path[0]], path[1:], harm)
    return entries if isinstance(value, dict) else list(entries.values())


def told(folder: Any) -> str:
    """All that is known of a part before its weights are read."""
    found = plan_load([folder], {})
    configs = [one.config for one in (*found.parts.values(), *found.encoders)]
    return repr((configs, found.mean, found.deviation, found.family))


@pytest.mark.parametrize("name", PARTS)
def test_a_number_that_cannot_be_changes_nothing_or_is_refused(tmp_path, name):
    folder = tmp_path / "part"
    shutil.copytree(Recording("diffusers-folders").file(name), folder)
    config = json.loads((folder / "config.json").read_text())
    want, refused = told(folder), list[str]()
    for path in numbers(config):
        for way, harm in HARM.items():
            (folder / "config.json").write_text(json.dumps(harmed(config, path, harm)))
            try:
                assert told(folder) == want, (path, way)
            except BadInput as error:
                refused.append(str(error))
    assert all("\n" not in one and len(one) < 400 for one in refused)
    assert refused or name == "sd3/transformer"  # which tells all by its shapes


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_a_schedule_of_numbers_that_cannot_be_changes_nothing_or_is_refused(name):
    file = Recording("diffusers-folders").file(f"{name}/scheduler/scheduler_config.json")
    config = json.loads(file.read_text())
    want, refused = schedulers.read(config, "x"), 0
    for path in numbers(config):
        for way, harm in HARM.items():
            try:
                assert schedulers.read(harmed(config, path, harm), "x") == want, (path, way)
            except BadInput:
                refused += 1
    assert refused > 5


def test_null_counts_as_absent(tmp_path):
    folder = tmp_path / "part"
    shutil.copytree(Recording("diffusers-folders").file("sd/unet"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({name: one for name, one in config.items() if name != "norm_eps"})
    )
    want = told(folder)
    (folder / "config.json").write_text(json.dumps({**config, "norm_eps": None}))
    assert told(folder) == want


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(Recording("diffusers-folders").file("sd"), tmp_path / "sd")
    return tmp_path / "sd"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model_index.json", "{}", "names no part of a model; known are unet"),
        ("model_index.json", "[]", "wanted a JSON object"),
        ("model_index.json", NESTED, "cannot be read: maximum recursion depth"),
        ("model_index.json", '{"unet": 5}', "'unet' wants a library and a class, got 5"),
        ("model_index.json", '{"unet": ["diffusers", {}]}', "'unet' wants a library and a class"),
        (
            "model_index.json",
            '{"../x": ["a", "b"], "unet": ["a", "b"]}',
            r"names '\.\./x' \(b\), which no known",
        ),
        ("model_index.json", " " * (17 << 20), "longer than 16,777,216 bytes"),
        ("unet/config.json", NESTED, "unet/config.json cannot be read"),
        (
            "unet/config.json",
            '{"norm_num_groups": ' + "9" * 5000 + "}",
            "unet/config.json cannot be read",
        ),
        ("unet/config.json", '{"only_cross_attention": [true]}', "one answer for each of 2 levels"),
        ("scheduler/scheduler_config.json", '{"_class_name": ["a"]}', "_class_name must be a word"),
        (
            "scheduler/scheduler_config.json",
            None,
            "scheduler is missing, or has no scheduler_config.json",
        ),
        ("tokenizer/tokenizer.json", NESTED, "the tokenizer of sd/text_encoder cannot be read"),
    ],
)
def test_a_folder_that_is_damaged_is_refused(folder, file, text, message):
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(BadInput, match=message):
        checkpoints.read(folder)


@pytest.mark.parametrize(
    "file", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet"]
)
def test_links_do_not_lead_out_of_a_folder(folder, tmp_path, file):
    outside = tmp_path / "outside"
    (folder / file).rename(outside)
    (folder / file).symlink_to(outside)
    with pytest.raises(BadInput, match=r"is a link out of its folder, to .*outside"):
        plan_load([folder], {})


def test_the_hubs_cache_links_to_its_files(folder, tmp_path):
    """``snapshots/REVISION/unet/config.json`` leads to ``blobs/HASH``."""
    snapshot, blobs = (
        tmp_path / "models--a--b" / "snapshots" / "0123",
        tmp_path / "models--a--b" / "blobs",
    )
    blobs.mkdir(parents=True)
    want = read_parts(folder, {})
    for number, path in enumerate(sorted(one for one in folder.rglob("*") if one.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / f"{number}")
        link.symlink_to(blobs / f"{number}")
    found = read_parts(snapshot, {})
    assert [one.config for one in found] == [one.config for one in want]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("../sd/unet/a.safetensors", "wanted the names of files beside it"),
        ("/etc/passwd", "wanted the names of files beside it"),
        ("a" * 5000, "wanted the names of files beside it"),
        ("link.safetensors", "is a link out of its folder"),
        (5, "wanted the names of files beside it"),
    ],
)
def test_an_index_names_files_next_to_it(folder, tmp_path, place, message):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(file, tmp_path / "outside.safetensors")
    (folder / "unet" / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    file.with_suffix(".safetensors.index.json").write_text(
        json.dumps({"weight_map": {"conv_in.weight": place}})
    )
    file.unlink()
    with pytest.raises(BadInput, match=message):
        read_parts(folder, {})
