"""A run that was killed or interrupted, and went on, equals the run that never was: to the bit."""

import json
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from making import forked, go, metrics, recipe, tables, write_recipe
from safelight.training.run import open_run

FOREVER = 100_000
STAGES = ("reconstruction", "denoising", "adversarial")
CASES = [(stage, precision) for stage in STAGES for precision in ("fp32", "bf16")]
ADVERSARIAL = {  # all that stage one has, begun before the first checkpoint
    "objective__perceptual": {"weight": 0.5},
    "objective__log_variance": 0.0,
    "objective__equivariance": 0.1,
    "objective__decoder_noise": 0.1,
    "objective__adversarial": {
        "discriminator": {"kind": "patch", "width": 8, "layers": 2},
        "start": 3,
        "r1": 1.0,
        "optimiser": {"kind": "adamw", "betas": [0.5, 0.9]},
    },
}
NORMS = {"fp32": "actnorm", "bf16": "spectral"}  # those with a state of their own


@pytest.fixture
def tree(stage, precision, pictures, tiny_folder):
    """Metrics every 2 and checkpoints every 5 updates, so that some metrics are pending."""
    made = tables(
        "reconstruction" if stage == "adversarial" else stage,
        pictures,
        tiny_folder,
        loop__precision=precision,
        loop__updates=FOREVER,
        framing__mirror=stage != "denoising",
        **(ADVERSARIAL if stage == "adversarial" else {}),
    )
    if stage == "adversarial":
        generator_loss = made["objective"]["adversarial"]
        made["objective"]["adversarial"] = generator_loss | {
            "discriminator": generator_loss["discriminator"] | {"norm": NORMS[precision]}
        }
    return made


def started(tree, tmp_path):
    """The command line at work on the recipe, past its first checkpoint."""
    write_recipe(tmp_path / "shapes.toml", tree)
    process = forked(
        "train",
        tmp_path / "shapes.toml",
        "--run",
        tmp_path / "cut",
        SAFELIGHT_CACHE=str(tmp_path / "its-cache"),
    )
    until = time.monotonic() + 120
    while (
        not (tmp_path / "cut" / "checkpoints" / "0000005").exists()
        or len(metrics(tmp_path / "cut")) < 3
    ):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    return process


def assert_same_from_one_go(tree, tmp_path, reached):
    """Five updates more, against as many in one go."""
    updates = reached + 5
    on = go(
        tmp_path / "cut", open_run(tmp_path / "cut", changes=(f"loop.updates={updates}",)).recipe
    )
    tree["loop"]["updates"] = updates
    straight = go(tmp_path / "straight", recipe(tree))
    ours, theirs = (load_file(run.checkpoints[-1] / "state.safetensors") for run in (on, straight))
    assert ours.keys() == theirs.keys()
    assert {name.split("/")[0] for name in ours} == {"weights", "ema", "optimiser"}
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    assert metrics(on.folder) == metrics(straight.folder)
    assert len(on.recall("origin")["starts"]) == 2
    started_from = load_file(straight.checkpoints[-2] / "state.safetensors")
    assert any(not torch.equal(value, theirs[name]) for name, value in started_from.items())


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_a_killed_run_resumes_bit_for_bit(tree, tmp_path):
    process = started(tree, tmp_path)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    reached = int(open_run(tmp_path / "cut").checkpoints[-1].name)
    assert reached >= 5
    assert_same_from_one_go(tree, tmp_path, reached)


@pytest.mark.parametrize(("stage", "precision"), [("denoising", "fp32")])
def test_an_interrupted_run_saves_prints_how_to_resume_and_ends_bit_for_bit(tree, tmp_path):
    process = started(tree, tmp_path)
    process.send_signal(signal.SIGINT)
    out, printed = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    reached = int(open_run(tmp_path / "cut").checkpoints[-1].name)
    stopping, saved = printed.splitlines()
    assert (
        stopping == "stopping after this update; press Ctrl-C again to stop at once without saving"
    )
    assert saved == f"saved at update {reached}; resume with: safelight train {tmp_path / 'cut'}"
    assert not out
    assert (
        json.loads((tmp_path / "cut" / "model" / "config.json").read_text())["card"]["origin"][
            "updates"
        ]
        == reached
    )
    assert_same_from_one_go(tree, tmp_path, reached)


@pytest.mark.parametrize(("stage", "precision"), [("denoising", "fp32")])
def test_any_checkpoint_can_be_resumed(tree, tmp_path):
    """Gone on from update 10, and from update 5, where a measure was pending."""
    tree["loop"]["updates"], tree["watch"]["keep"] = 12, 9
    run = go(tmp_path / "run", recipe(tree))
    wanted = load_file(run.checkpoints[-1] / "state.safetensors")
    lines = metrics(run.folder)
    for left in (["0000005", "0000010"], ["0000005"]):
        for path in run.checkpoints[len(left) :]:
            shutil.rmtree(path)
        assert [path.name for path in run.checkpoints] == left
        go(run.folder, run.recipe)
        found = load_file(run.checkpoints[-1] / "state.safetensors")
        assert [name for name, value in found.items() if not torch.equal(value, wanted[name])] == []
        assert metrics(run.folder) == lines
