"""Compiled blocks: the same training up to rounding, the same names, an exact resume."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

import safelight
from making import go, metrics, recipe, tables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]  # of torch's compiler about torch


def state(run):
    return load_file(run.checkpoints[-1] / "state.safetensors")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stage", ["reconstruction", "denoising"])
def test_compiled_blocks_train_alike_and_resume_exactly(
    stage, recompute, pictures, tiny_folder, tmp_path
):
    torch.compiler.reset()
    tree = tables(stage, pictures, tiny_folder, loop__updates=6, watch__save=3, watch__check=2)
    tree["optimiser"] = {"kind": "adamw", "eps": 0.1}  # so that rounding stays small
    plain = go(tmp_path / "plain", recipe(tree))
    tree["loop"] |= {"compile": True, "recompute": recompute}
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    straight = go(tmp_path / "straight", recipe(tree))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    ours, theirs = state(straight), state(plain)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        if name.startswith("weights/"):
            assert (
                ours[name].float() - value.float()
            ).abs().max() <= 1e-5 * value.float().abs().max() + 1e-7, name
    torch.compiler.reset()
    cut = go(tmp_path / "cut", recipe(tree))
    shutil.rmtree(cut.checkpoints[-1])
    torch.compiler.reset()
    on = go(tmp_path / "cut", recipe(tree))
    assert [name for name, value in state(on).items() if not torch.equal(value, ours[name])] == []
    assert metrics(on.folder) == metrics(straight.folder)
    assert safelight.load(straight.folder, precision="fp32")
