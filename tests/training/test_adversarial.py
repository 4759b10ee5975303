"""Adversarial losses by hand, the adaptive weight, discriminators and what each changes."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import safelight.training.discriminators
from safelight.errors import BadInput
from safelight.training.adversarial import (
    Adversarial,
    Adversary,
    adaptive_weight,
    gan_loss,
    r1_penalty,
    with_gradient,
)
from safelight.training.discriminators.patch import ActNorm, Config

NORMS = ["spectral", "actnorm", "group", "none"]


def number(value):
    """A scalar, whether or not it has a gradient."""
    return float(value.detach())


def images(batch=4, size=24, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(batch, 3, size, size, generator=draw) - 1


def same(value):
    """The mean over a single process."""
    return value


def patch(norm="group", mean=same, **options):
    torch.manual_seed(0)
    return Config(**{"width": 8, "layers": 2, "norm": norm} | options).build(mean)


def test_the_discriminator_s_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 0.5])
    assert number(gan_loss("hinge", real, fake)) == pytest.approx((0.5 + 0.75) / 2)
    wanted = [
        math.log1p(math.exp(-2)),
        math.log(2),
        math.log1p(math.exp(-3)),
        math.log1p(math.exp(0.5)),
    ]
    assert number(gan_loss("non-saturating", real, fake)) == pytest.approx(sum(wanted) / 4)


@pytest.mark.parametrize(("kind", "wanted"), [("hinge", 1.25), ("non-saturating", None)])
def test_the_generator_loss_by_hand(kind, wanted):
    adversary = Adversary(Adversarial(loss=kind), same)
    adversary.network = torch.nn.Flatten()
    fake = torch.tensor([[-3.0], [0.5]])
    wanted = wanted or (math.log1p(math.exp(3)) + math.log1p(math.exp(-0.5))) / 2
    assert number(adversary.generator_loss(fake)) == pytest.approx(wanted)


def test_the_metrics_of_a_discriminator():
    adversary = Adversary(Adversarial(r1=2.0), same)
    adversary.network = torch.nn.Flatten()
    total, measured = adversary.discriminator_loss(
        torch.tensor([[2.0], [-1.0]]), torch.tensor([[-3.0], [-0.5]])
    )
    assert {name: number(value) for name, value in measured.items()} == pytest.approx(
        {"real": 0.5, "fake": -1.75, "accuracy": 0.75, "r1": 1.0}
    )
    assert number(total) == pytest.approx((1.0 + 0.25) / 2 + 2 / 2 * 1.0)


def test_r1_of_a_linear_discriminator_is_the_square_of_its_weights():
    weight = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = r1_penalty(lambda x: (x * weight).sum((1, 2, 3)).view(-1, 1, 1, 1) + 7, images(3, 5))
    assert number(found) == pytest.approx(number(weight.square().sum()))
    (gradient,) = torch.autograd.grad(found, weight)
    torch.testing.assert_close(gradient, 2 * weight)
    halves = r1_penalty(
        lambda x: torch.stack([(x * weight).sum((1, 2, 3)), x.new_zeros(len(x))], 1), images(3, 5)
    )
    assert number(halves) == pytest.approx(
        number(found) / 4
    )  # the mean of two logits, one of them constant


def test_the_adaptive_weight_by_hand():
    """Pictures are last · z: a gradient g at the picture is Σ g·z at last."""
    last = torch.tensor([2.0], requires_grad=True)
    z = torch.tensor([[1.0, 2.0, -1.0]])
    pull, push = torch.tensor([[3.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    assert number(adaptive_weight(last * z, last, pull, push, 1e4, same)) == pytest.approx(
        4 / (1 + 1e-6)
    )
    assert number(adaptive_weight(last * z, last, pull, push, 3.0, same)) == 3.0
    assert number(adaptive_weight(last * z, last, pull, 0 * push, 1e4, same)) == 1e4
    assert not adaptive_weight(last * z, last, pull, push, 1e4, same).requires_grad
    assert last.grad is None


def test_processes_are_averaged_before_the_norms_are_taken():
    """Two processes, with reconstruction gradients of 4 and -2 and adversarial ones of 1.

    The weight is (4 - 2) / 2 over 1.
    """
    last = torch.tensor([2.0], requires_grad=True)
    others = iter([torch.tensor([-2.0]), torch.tensor([1.0])])
    found = adaptive_weight(
        last * torch.ones(1, 1),
        last,
        torch.full((1, 1), 4.0),
        torch.ones(1, 1),
        1e4,
        lambda g: (g + next(others)) / 2,
    )
    assert number(found) == pytest.approx(1.0, rel=1e-5)


def test_with_gradient_has_the_given_value_and_gradient():
    x, own = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(5.0, requires_grad=True)
    value = with_gradient(3 * x, torch.tensor([1.0, -1.0]), own.square())
    assert number(value) == 25
    value.backward()
    assert x.grad.tolist() == [3, -3]
    assert number(own.grad) == 10


def test_every_discriminator_is_tested_here():
    folder = Path(safelight.training.discriminators.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", "patch"}


@pytest.mark.parametrize("norm", NORMS)
def test_a_patch_discriminator_gives_a_logit_a_patch(norm):
    network = patch(norm)
    assert network(images(2, 24)).shape == (2, 1, 4, 4)
    assert network(images(2, network.min_size)).shape == (2, 1, 1, 1)
    network.eval()
    together = network(images(4))
    for row in range(4):  # no statistics of the batch
        torch.testing.assert_close(
            network(images(4)[row : row + 1])[0], together[row], rtol=1e-4, atol=1e-5
        )
    network(images()).square().sum().backward()
    assert [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


def test_the_defaults_are_those_of_the_paper():
    torch.manual_seed(0)
    network = Config(norm="none").build(same)
    convolutions = [
        module_ for module_ in network.modules() if isinstance(module_, torch.nn.Conv2d)
    ]
    assert [convolution.out_channels for convolution in convolutions] == [64, 128, 256, 512, 1]
    assert [convolution.stride[0] for convolution in convolutions] == [2, 2, 2, 1, 1]
    seen = torch.zeros(1, 3, 256, 256, requires_grad=True)
    network(seen)[0, 0, 15, 15].backward()
    rows = seen.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_spectral_norm_keeps_every_layer_at_gain_one():
    network = patch("spectral")
    for _ in range(30):
        network(images())
    for layer in [layer for layer in network.layers if isinstance(layer, torch.nn.Conv2d)]:
        assert number(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) == pytest.approx(
            1, abs=0.02
        )


def test_actnorm_is_initialised_by_its_first_batch_of_training_only():
    norm = ActNorm(3, same)
    first, second = 5 * images(seed=1) + 2, images(seed=2)
    norm.eval()
    assert torch.equal(norm(first), first)
    norm.train()
    begun = norm(first)
    torch.testing.assert_close(begun.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(begun.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    kept = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(second)
    resumed = ActNorm(3, same)
    resumed.load_state_dict(kept)
    assert torch.equal(resumed(second), norm(second))
    assert all(torch.equal(value, norm.state_dict()[name]) for name, value in kept.items())


def test_actnorm_of_two_processes_is_that_of_one():
    whole = images(8, seed=3)
    one = ActNorm(3, same)
    one(whole)

    def meanwhile(stats):
        """What the other process measured of its half joins in."""
        other = whole[4:]
        return (stats + torch.stack([other.mean((0, 2, 3)), other.square().mean((0, 2, 3))])) / 2

    half = ActNorm(3, meanwhile)
    half(whole[:4])
    torch.testing.assert_close(half.gain, one.gain)
    torch.testing.assert_close(half.shift, one.shift)


@pytest.mark.parametrize("norm", NORMS)
def test_only_its_own_step_changes_a_discriminator(norm):
    torch.manual_seed(0)
    adversary = Adversary(Adversarial(Config(8, 2, norm)), same)
    assert not adversary.begun
    adversary.discriminator_loss(images(), images(seed=1))
    assert adversary.begun
    before = {name: value.clone() for name, value in adversary.state_dict().items()}
    adversary.generator_loss(images(seed=2))
    assert [
        name
        for name, value in adversary.state_dict().items()
        if not torch.equal(value, before[name])
    ] == []


@pytest.mark.parametrize("loss", ["hinge", "non-saturating"])
def test_a_discriminator_learns_to_distinguish_two_kinds_of_pictures(loss):
    torch.manual_seed(0)
    adversary = Adversary(Adversarial(Config(8, 2, "spectral"), loss, r1=0.1), same)
    optimiser = torch.optim.Adam(adversary.parameters(), 1e-2)
    for step in range(40):
        smooth = F.interpolate(images(4, 6, seed=step), (24, 24))
        total, measured = adversary.discriminator_loss(smooth, images(4, 24, seed=1000 + step))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    assert measured["accuracy"] > 0.95
    assert measured["real"] > measured["fake"]


@pytest.mark.parametrize(
    "wrong",
    [{"weight": -1.0}, {"max_adaptive_weight": float("inf")}, {"start": -1}, {"r1": float("nan")}],
)
def test_invalid_numbers_are_refused(wrong):
    with pytest.raises(
        BadInput, match="adversarial: wanted weight, start, max_adaptive_weight, r1 and rate of"
    ):
        Adversarial(**wrong)
    with pytest.raises(BadInput, match="patch: wanted width ≥ 1 and layers ≥ 1"):
        Config(layers=0)
