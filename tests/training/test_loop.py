"""The training loop: separate groups, accumulation, repeatability, non-finite losses."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from making import go, metrics, recipe, tables
from safelight.data.sources.folder import Config as Folder
from safelight.errors import SafelightError
from safelight.model import LatentDiffusion
from safelight.training.loop import train
from safelight.training.objective import Group, Loss
from safelight.training.recipe import Loop, Rate, Recipe, Watch
from safelight.training.run import Run


@dataclass(frozen=True)
class Toy:
    """Two weights in both losses: ``first`` is drawn to 1, ``second`` to -1, and apart."""

    start: int = 0
    breaks: int = 10**9  # from this position on the loss is no number
    seen: list[Any] = field(default_factory=list)

    def build(self, context):
        return Game(self)


class Game:
    def __init__(self, config):
        self.config = config
        self.net = nn.ModuleDict({name: nn.Linear(2, 1) for name in ("first", "second")})
        self.parts = {"net": self.net}
        self.parents = {}
        self.groups = tuple(
            Group(name, dict(self.net[name].named_parameters()), start)
            for name, start in {"first": 0, "second": config.start}.items()
        )

    def prepare(self, datasets, report):
        pass

    def batch(self, dataset, positions, indices):
        return list(positions)

    def loss(self, group, batch):
        self.config.seen.append(
            (
                group,
                {
                    n: all(p.requires_grad for p in item.parameters())
                    for n, item in self.net.items()
                },
            )
        )
        x = torch.tensor([[1.0, place % 5] for place in batch])
        first, second = (self.net[name](x) for name in ("first", "second"))
        goal = 1 if group == "first" else -1
        total = ((self.net[group](x) - goal) ** 2).mean() + 0.1 * (first * second).mean()
        if max(batch) >= self.config.breaks:
            total = total * float("nan")
        others = [
            p.grad for name, item in self.net.items() if name != group for p in item.parameters()
        ]
        self.config.seen.append(("others' gradients", [g for g in others if g is not None]))
        return Loss(total, {"mean": x.mean()})

    def after_update(self, update):
        pass

    def validate(self, batch):
        return {"loss": torch.zeros(len(batch))}

    def sheet(self, dataset):
        return Image.new("RGB", (4, 4))

    def model(self, card, dataset):
        return LatentDiffusion(card=card)


def toy(pictures, objective=None, **loop):
    return Recipe(
        objective=objective or Toy(),
        data=Folder((str(pictures),)),
        rate=Rate(0.05, warmup=0),
        loop=Loop(
            **{"updates": 6, "batch": 8, "precision": "fp32", "device": "cpu", "ema": 0.5} | loop
        ),
        watch=Watch(write=1, check=0, sheet=0, save=2),
    )


@pytest.fixture
def no_record(monkeypatch):
    """A toy is no kind of the recipe's slot, so it cannot be written down."""
    monkeypatch.setattr("safelight.training.run.dump", lambda recipe: {})


def weights(run):
    from safetensors.torch import load_file

    return load_file(run.checkpoints[-1] / "state.safetensors")


@pytest.mark.usefixtures("no_record")
def test_a_group_has_no_gradient_in_the_step_of_another(pictures, tmp_path):
    objective = Toy()
    both = go(tmp_path / "both", toy(pictures, objective))
    steps = [what for what in objective.seen if what[0] in ("first", "second")]
    assert [group for group, _ in steps] == ["first", "second"] * 6
    for group, wants in steps:
        assert wants == {"first": group == "first", "second": group == "second"}
    assert all(not gradients for what, gradients in objective.seen if what == "others' gradients")
    moved = weights(both)
    assert {name.split("/")[1] for name in moved if name.startswith("optimiser/")} == {
        "first",
        "second",
    }


@pytest.mark.usefixtures("no_record")
def test_a_group_starts_at_its_update(pictures, tmp_path):
    late = Toy(start=4)
    run = go(tmp_path / "late", toy(pictures, late))
    steps = [what for what, _ in late.seen if what in ("first", "second")]
    assert steps == ["first"] * 4 + ["first", "second"] * 2
    lines = metrics(run.folder)
    assert ["second/loss" in line for line in lines if "rate" in line] == [False] * 4 + [True] * 2
    idle = go(tmp_path / "idle", toy(pictures, Toy(start=99)))
    before, after = (weights(item) for item in (idle, run))
    assert not torch.equal(before["weights/net/second.weight"], after["weights/net/second.weight"])
    assert float(after["optimiser/second/weight/step"]) == 2
    assert not [name for name in before if name.startswith("optimiser/second")]


@pytest.mark.usefixtures("no_record")
def test_accumulated_micro_batches_equal_one_batch(pictures, tmp_path):
    once = go(tmp_path / "once", toy(pictures))
    parts = go(tmp_path / "parts", toy(pictures, accumulate=4))
    theirs = weights(parts)
    for name, value in weights(once).items():
        torch.testing.assert_close(theirs[name], value, atol=1e-6, rtol=1e-6)
    for line, other in zip(metrics(once.folder), metrics(parts.folder), strict=True):
        assert other == pytest.approx(line, abs=1e-5)


def test_accumulation_in_a_real_stage(pictures, tmp_path):
    made = recipe(
        tables(
            "reconstruction",
            pictures,
            loop__batch=8,
            loop__updates=1,
            objective__regularisers={"kl": 0.01},
        )
    )
    once = weights(go(tmp_path / "once", made))
    parts = weights(go(tmp_path / "parts", replace(made, loop=replace(made.loop, accumulate=4))))
    first = [name for name in once if name.endswith("exp_avg")]
    assert len(first) > 20
    for name in (
        first
    ):  # the mean of the gradients: weights after one step of Adam hold little but its sign
        torch.testing.assert_close(parts[name], once[name], atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("no_record")
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_its_checkpoint(pictures, tmp_path):
    made = toy(pictures, Toy(breaks=4 * 8))
    run = Run(tmp_path / "run", made)
    with (
        run.claim(),
        pytest.raises(SafelightError, match="first/loss is nan at update 5; the last checkpoint"),
    ):
        list(train(run, tmp_path, lambda *progress: None))
    assert [path.name for path in run.checkpoints] == ["0000002", "0000004"]
    assert all(value.isfinite().all() for value in weights(run).values())
    assert max(line["update"] for line in metrics(run.folder)) == 4


@pytest.mark.usefixtures("no_record")
def test_a_loss_that_is_not_finite_between_two_log_lines_is_never_saved(pictures, tmp_path):
    made = replace(
        toy(pictures, Toy(breaks=2 * 8)), watch=Watch(write=100, check=0, sheet=0, save=1)
    )
    run = Run(tmp_path / "run", made)
    with run.claim(), pytest.raises(SafelightError, match="at update 3"):
        list(train(run, tmp_path, lambda *progress: None))
    assert [path.name for path in run.checkpoints] == ["0000001", "0000002"]


@pytest.mark.usefixtures("no_record")
def test_stopping_before_the_first_update_saves(pictures, tmp_path):
    run = Run(tmp_path / "run", toy(pictures))
    with run.claim():
        progress = []
        for item in train(run, tmp_path, lambda *progress: None, stop=lambda: bool(progress)):
            progress.append(item)
    assert [(item.update, item.updates) for item in progress] == [(0, 6)]
    assert [path.name for path in run.checkpoints] == ["0000000"]
    straight = go(tmp_path / "straight", toy(pictures))
    on = go(tmp_path / "run", toy(pictures))
    ours = weights(on)
    assert all(torch.equal(value, ours[name]) for name, value in weights(straight).items())
    assert metrics(on.folder) == metrics(straight.folder)


def test_stopping_during_preparation_leaves_nothing(pictures, tmp_path):
    run = Run(tmp_path / "run", toy(pictures))
    with pytest.raises(KeyboardInterrupt), run.claim():
        list(train(run, tmp_path, lambda *progress: None, stop=lambda: True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "precision"), [("reconstruction", "bf16"), ("denoising", "fp32")]
)
def test_recomputed_activations_give_the_same_run(
    stage, precision, pictures, tiny_folder, tmp_path
):
    made = recipe(tables(stage, pictures, tiny_folder, loop__updates=3, loop__precision=precision))
    once = go(tmp_path / "once", made)
    anew = go(tmp_path / "anew", replace(made, loop=replace(made.loop, recompute=True)))
    ours = weights(anew)
    assert [
        name for name, value in weights(once).items() if not torch.equal(value, ours[name])
    ] == []
    assert metrics(anew.folder) == metrics(once.folder)


@pytest.mark.parametrize("stage", ["reconstruction", "denoising"])
def test_the_same_recipe_twice_is_the_same_run(stage, pictures, tiny_folder, tmp_path):
    made = recipe(
        tables(
            stage, pictures, tiny_folder, loop__updates=3, framing__mirror=stage == "reconstruction"
        )
    )
    first, second = (go(tmp_path / name, made) for name in ("first", "second"))
    assert metrics(first.folder) == metrics(second.folder)
    assert len(metrics(first.folder)) == 3  # at 2, at 3, and the check
    again = weights(second)
    for name, value in weights(first).items():
        assert torch.equal(value, again[name]), name
    other = go(tmp_path / "other", replace(made, seed=4))
    assert metrics(other.folder)[0] != metrics(first.folder)[0]


def test_progress_has_each_update_and_its_metrics(pictures, tmp_path):
    run = Run(tmp_path / "run", recipe(tables("reconstruction", pictures, loop__updates=2)))
    reported = []
    with run.claim():
        progress = list(
            train(run, tmp_path, lambda what, done, total: reported.append((what, done, total)))
        )
    assert [(item.update, item.updates) for item in progress] == [(0, 2), (1, 2), (2, 2)]
    assert reported[-1] == ("reading data", 12, 12)
    assert set(progress[1].metrics) == {
        f"autoencoder/{name}" for name in ("l1", "kl", "loss", "gradient")
    }
    assert progress[1].pictures_a_second > 0


def test_metrics_are_plotted(pictures, tmp_path):
    from safelight.training.plot import plot

    lines = [{"update": 1, "loss": 1.0}, {"update": 2, "loss": 0.5, "check/loss": 0.7}]
    plot(lines, tmp_path / "metrics.png")
    with Image.open(tmp_path / "metrics.png") as picture:
        assert len(set(picture.convert("L").tobytes())) > 10
    plot([], tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()
