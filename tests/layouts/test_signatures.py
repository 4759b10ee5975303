"""Which layouts are tried for a file, and that reading names and shapes needs no torch."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tests.recorded import HERE, real_shapes

from safelight import layouts
from safelight.layouts.detection import detect_groups
from safelight.layouts.signatures import SIGNATURES, all_layouts, candidates, layouts_of, matching
from safelight.weights.writing import write_tensors

with zipfile.ZipFile(HERE / "key-lists.zip") as archive:
    LISTS = sorted(name for name in archive.namelist() if "/" not in name)


def test_every_layout_has_signatures():
    files = Path(layouts.__file__).parent.glob("*/[a-z]*.py")
    modules = {f"{file.parent.name}.{file.stem}" for file in files if file.stem != "mapping"}
    assert modules == SIGNATURES.keys()


@pytest.mark.parametrize("module", SIGNATURES)
def test_a_file_of_each_layout_holds_a_signature(module):
    for layout in layouts_of(module):
        names = {name for rule in layout.table(layout.example).rules for name in rule.theirs}
        assert names & {*SIGNATURES[module]}


@pytest.mark.parametrize("name", LISTS)
def test_candidates_give_what_the_search_of_all_layouts_gives(name):
    shapes = real_shapes(name.removesuffix(".json"))
    for group in [shapes, *detect_groups(shapes).values()]:
        exhaustive = [layout for layout in all_layouts() if layout.recognises(group)]
        assert matching(group) == exhaustive
        assert len({id(layout) for layout in candidates(group)}) <= 4


def test_most_real_files_are_recognised():
    found = [matching(real_shapes(name.removesuffix(".json"))) for name in LISTS]
    assert sum(bool(layouts) for layouts in found) >= 30


def run(code: str, *arguments: object) -> dict[str, object]:
    """What a fresh process prints as JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loaded: dict[str, object] = json.loads(printed)
    return loaded


HEADER = """
import json, sys
from pathlib import Path
from safelight.weights.files import open_weights
weights = open_weights(Path(sys.argv[1]))
told = [weights.shapes["a"], weights.types["a"], weights.bytes, dict(weights.metadata)["k"]]
print(json.dumps({"values": told, "torch": "torch" in sys.modules}))
"""


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_header_is_read_without_torch(tmp_path, kind):
    path = tmp_path / f"file.{kind}"
    if kind == "safetensors":
        write_tensors({"a": torch.zeros(2, 3)}, path, {"k": "v"})
    else:
        torch.save({"a": torch.zeros(2, 3), "k": "v"}, path)
    assert run(HEADER, path) == {"values": [[2, 3], "F32", 24, "v"], "torch": False}


DETECT = """
import json, sys, zipfile
from safelight.layouts.families import family_of
from safelight.layouts.signatures import matching
with zipfile.ZipFile(sys.argv[1]) as archive:
    tensors = dict(json.loads(archive.read(sys.argv[2]))["tensors"])
start = "model.diffusion_model."
shapes = {name.removeprefix(start): tuple(shape) for name, shape in tensors.items()}
shapes = {name: shape for name, shape in shapes.items() if not name.startswith("first_stage")}
(layout,) = matching(shapes)
config = layout.config(shapes, {})
from safelight.config import kind_of
family = family_of(kind_of(config), config)
used = {name.split(".")[2] for name in sys.modules if name.startswith("safelight.layouts.")
        and name.count(".") > 2}
print(json.dumps({"family": family.name, "torch": "torch" in sys.modules, "used": sorted(used)}))
"""


@pytest.mark.parametrize(
    ("name", "family", "used"),
    [
        ("real.UNET-v1-SD", "sd1", ["unet"]),
        ("sdxl.unet.diffusers", "sdxl", ["unet"]),
        ("flux1-dev.bfl", "flux-dev", ["flux"]),
        ("flux1-dev.transformer.diffusers", "flux-dev", ["flux"]),
        ("sd3-medium.transformer.diffusers", "sd3", ["mmdit"]),
        ("sd3-medium.mmdit", "sd3", ["mmdit"]),
    ],
)
def test_a_denoiser_is_detected_without_torch_and_other_layouts(name, family, used):
    want = {"family": family, "torch": False, "used": used}
    assert run(DETECT, HERE / "key-lists.zip", f"{name}.json") == want


def test_a_whole_file_of_stable_diffusion_tries_three_layouts():
    parts = {
        "model.diffusion_model.": "real.UNET-v1-SD",
        "first_stage_model.": "real.VAE-v1-SD",
        "cond_stage_model.transformer.": "sd15.text_encoder.transformers",
    }
    shapes = {
        prefix + key: shape
        for prefix, name in parts.items()
        for key, shape in real_shapes(name).items()
    }
    groups = detect_groups(shapes)
    assert set(groups) == set(parts)
    modules = [
        module
        for group in groups.values()
        for module, names in SIGNATURES.items()
        if any(name in group for name in names)
    ]
    assert sorted(modules) == ["autoencoder.ldm", "text_encoder.clip", "unet.ldm"]
