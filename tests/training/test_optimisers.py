"""Weights move as the papers say, and rates as the recipe says."""

import pytest
import torch
from torch import nn

from safelight.errors import BadInput
from safelight.training.optimisers import Adamw, Muon, orthogonalised
from safelight.training.recipe import Loop, Rate, Watch


def weights(*shapes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        f"layer{i}": nn.Parameter(torch.randn(shape, generator=draw))
        for i, shape in enumerate(shapes)
    }


def push(optimiser, parameters, updates=5, rate=1e-2):
    """Some updates with gradients that are the same for the same shapes."""
    draw = torch.Generator().manual_seed(1)
    for group in optimiser.param_groups:
        group["lr"] = rate
    for _ in range(updates):
        for p in parameters.values():
            p.grad = torch.randn(p.shape, generator=draw)
        optimiser.step()
        optimiser.zero_grad()


def test_adamw_is_that_of_torch_and_decays_only_matrices():
    ours, theirs = weights((8, 4), (4,), (2, 3, 3, 3)), weights((8, 4), (4,), (2, 3, 3, 3))
    push(Adamw(decay=0.1).build(ours), ours)
    groups = [
        {"params": [theirs["layer0"], theirs["layer2"]], "weight_decay": 0.1},
        {"params": [theirs["layer1"]], "weight_decay": 0.0},
    ]
    push(torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8, fused=False, foreach=False), theirs)
    for name, p in ours.items():
        torch.testing.assert_close(p, theirs[name], atol=1e-6, rtol=1e-6)
        assert not torch.equal(p, weights((8, 4), (4,), (2, 3, 3, 3))[name])


@pytest.mark.parametrize("shape", [(64, 128), (128, 64), (64, 256)])
def test_orthogonalised_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix).float())
    assert values.min() >= 0.6
    assert values.max() <= 1.3
    assert (matrix * orthogonalised(matrix)).sum() > 0


def test_the_other_parameters_of_muon_are_updated_by_adamw():
    ours, theirs = weights((32, 100), (7,)), weights((32, 100), (7,))
    push(Muon().build(ours), ours)
    push(torch.optim.AdamW(theirs.values(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0), theirs)
    for name, p in ours.items():
        torch.testing.assert_close(p, theirs[name], atol=1e-6, rtol=1e-6)


def test_muon_updates_hidden_matrices_and_adamw_embeddings():
    parameters = {
        name: nn.Parameter(torch.zeros(64, 64))
        for name in ("mlp.weight", "embedding.weight", "conditioner.table.weight")
    }
    optimiser = Muon().build(parameters)
    by_muon = [p for group in optimiser.param_groups if group["muon"] for p in group["params"]]
    assert [p is parameters["mlp.weight"] for p in by_muon] == [True]


def test_the_size_of_a_muon_step_is_its_learning_rate():
    parameters = weights((64, 128))
    before = parameters["layer0"].detach().clone()
    push(Muon().build(parameters), parameters, updates=1, rate=0.5)
    change = (parameters["layer0"] - before).square().mean().sqrt()
    # an orthogonal 64×128 matrix has entries of about 1/sqrt(128); 0.2·sqrt(128) of it is 0.2 each
    assert 0.5 * 0.2 * 0.7 < change < 0.5 * 0.2 * 1.2


@pytest.mark.parametrize("config", [Adamw(), Muon()])
def test_optimisers_minimise_a_quadratic(config):
    parameters = weights((64, 64), (64,))
    goal = weights((64, 64), (64,), seed=5)
    optimiser = config.build(parameters)
    for group in optimiser.param_groups:
        group["lr"] = 0.05

    def loss():
        return sum(((p - goal[name].detach()) ** 2).mean() for name, p in parameters.items())

    losses = []
    for _ in range(60):
        value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(value.detach()))
    assert losses[1] < losses[0]
    assert losses[-1] < losses[0] / 3


def test_learning_rates():
    assert [Rate(1.0, warmup=4).at(u, 10) for u in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    line = Rate(2.0, warmup=0, decay="linear", floor=0.1)
    assert [line.at(u, 10) for u in (0, 5, 10)] == pytest.approx([2.0, 1.1, 0.2])
    wave = Rate(1.0, warmup=2, decay="cosine")
    assert [wave.at(u, 10) for u in (2, 6, 10, 99)] == pytest.approx([1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rate(peak=float("nan")), "peak"),
        (lambda: Rate(warmup=-1), "warmup"),
        (lambda: Rate(floor=2.0), "floor"),
        (lambda: Loop(updates=0), "updates"),
        (lambda: Loop(batch=10, accumulate=4), "accumulate ≥ 1 that divides batch"),
        (lambda: Loop(ema=1.0), "ema"),
        (lambda: Watch(keep=0), "keep"),
        (lambda: Watch(write=-1), "the others"),
        (lambda: Muon(momentum=1.0), "momentum"),
    ],
)
def test_invalid_options_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()
