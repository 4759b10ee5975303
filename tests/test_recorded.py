"""What is shipped with the tests is small, says where it is from, and is drawn alike everywhere."""

import json
from hashlib import sha256
from math import prod

import pytest
import torch

import drawn
from recorded import HERE

FOLDERS = sorted(path.parent for path in HERE.rglob("outputs.safetensors"))


def test_all_recordings_together_are_small():
    assert sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()) < 8_600_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_recording_names_what_was_run(folder):
    for source in json.loads((folder / "golden.json").read_text("utf-8"))["source"]:
        assert source.get("version") or len(source["commit"]) == 40


def test_what_is_drawn_is_the_same_bits_on_every_machine():
    names = {
        "x.weight": (32, 4, 3, 3),
        "norm.weight": (40,),
        "x.bias": (40,),
        "alpha": (),
        "table": (1, 9, 8),
    }
    raw = b"".join(
        drawn.draw(name, "F32", shape).numpy().astype("<f4").tobytes()
        for name, shape in names.items()
    )
    assert (
        sha256(raw).hexdigest()
        == "bab6459c23b2e2ca079dcc4f99776ef4d810f2b7c06e9063336ee661773c20e7"
    )
    for name, shape in names.items():
        for kind in ("F16", "BF16"):
            assert torch.equal(
                drawn.draw(name, kind, shape).float(), drawn.draw(name, "F32", shape)
            ), (name, kind)


@pytest.mark.parametrize("shape", [(64, 32), (64, 32, 3, 3), (49, 64)])
def test_what_passes_through_a_drawn_matrix_keeps_its_size(shape):
    spread = drawn.draw("some.weight", "F32", shape).std() * prod(shape[1:]) ** 0.5
    assert 0.7 < spread < 1.42
