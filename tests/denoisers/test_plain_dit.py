"""What is the published DiT's own. Its numbers are held to the original's in
tests/layouts/test_dit_layouts.py."""

import pytest
import torch

from safelight.conditioners import label
from safelight.denoisers.plain_dit.config import Config
from safelight.diffusion.guidance.distilled import Distilled
from safelight.diffusion.guided import guided
from safelight.diffusion.prediction import Noise, NoiseAndVariance
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import LinearBeta
from safelight.errors import BadInput
from safelight.types.networks import Condition, Denoiser, Prompt

SMALL = {"width": 24, "depth": 3, "heads": 2, "side": 3, "classes": 5}


def skewed(**changes):
    """A small network whose parameters all matter, and what it is asked."""
    torch.manual_seed(0)
    network = Config(**SMALL | changes).build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return (
        network,
        torch.randn(2, 4, 4, 6),
        1000 * torch.rand(2),
        Condition(scalars={"label": torch.tensor([0, 4])}),
    )


@pytest.mark.parametrize("embedders", ["published", "each"])
def test_it_starts_at_zero_and_its_blocks_as_the_identity(embedders):
    network = Config(**SMALL, embedders=embedders).build()
    _, noisy, time, given = skewed()
    assert torch.equal(network(noisy, time, given), torch.zeros_like(noisy))
    torch.nn.init.normal_(network.final.linear.weight)
    with_blocks = network(noisy, time, given)
    network.blocks = torch.nn.ModuleList()
    assert with_blocks.std() > 0.1
    assert torch.equal(network(noisy, time, given), with_blocks)


def test_nothing_said_is_the_class_after_the_last():
    network, noisy, time, _ = skewed()
    teller = label.Config(classes=5, width=0, numeric_labels=True).build()
    assert torch.equal(
        network(noisy, time, teller([Prompt()] * 2)), network(noisy, time, Condition())
    )
    told = teller([Prompt("0"), Prompt(given={"label": 4})])
    assert torch.equal(network(noisy, time, told), network(noisy, time, skewed()[3]))


def test_left_out_blocks_are_as_if_they_were_not_there():
    network, noisy, time, given = skewed(embedders="each")
    assert isinstance(network, Denoiser)
    found = network.variant((0, 2), ())(noisy, time, given)
    assert not torch.allclose(found, network(noisy, time, given), atol=1e-3)
    for block in (network.blocks[0], network.blocks[2]):
        for one in (block.modulation.linear.weight, block.modulation.linear.bias):
            one.data.view(6, 24, -1)[2::3] = 0  # the gates
    torch.testing.assert_close(found, network(noisy, time, given))
    alone, other = network.variant((), (0, 1, 2)), noisy.clone()
    other[..., 2:] = 7
    assert torch.equal(alone(noisy, time, given)[..., :2], alone(other, time, given)[..., :2])
    with pytest.raises(BadInput, match="this transformer has the blocks 0 to 2, not 3"):
        network.variant((3,), ())


def test_a_learned_variance_is_read_and_taught():
    network, noisy, time, given = skewed(variance="learned")
    plain = Config(**SMALL, variance="ignored").build()
    plain.load_state_dict(network.state_dict())
    assert network(noisy, time, given).shape == (2, 8, 4, 6)
    assert torch.equal(network(noisy, time, given)[:, :4], plain(noisy, time, given))
    process = Process(LinearBeta(), NoiseAndVariance())
    level = process.schedule(torch.tensor(0.5))
    estimate = process.denoise(network, noisy, level, given)
    assert estimate.variance.shape == noisy.shape
    assert torch.equal(
        estimate.clean, Process(LinearBeta(), Noise()).denoise(plain, noisy, level, given).clean
    )
    loss = process.loss(network, noisy, torch.randn_like(noisy), torch.tensor([0.2, 0.7]), given)
    loss.sum().backward()
    rows = network.final.linear.weight.grad.view(
        4, 8, 24
    )  # (p q) c: the last four channels of each are variance
    assert (rows.abs().amax(dim=(0, 2)) > 0).all()


def test_what_it_does_not_hear_is_refused_before_the_first_step():
    network, _, _, given = skewed()
    said = Condition(scalars={"label": given.scalars["label"], "guidance": torch.ones(2)})
    with pytest.raises(BadInput, match="takes the scalar label, got guidance"):
        network.prepare(said)
    process = Process(LinearBeta(), Noise())
    with pytest.raises(BadInput, match="takes the scalar 'guidance', this one takes label"):
        guided(process, {"main": network}, Distilled(2.0), given, lambda only: given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch": 0}, "patch must be above 0, not 0"),
        ({"classes": -1}, "classes must be 0 \\(closed\\) or more"),
        ({"width": 100, "heads": 3}, "width of 100 cannot be shared by 3 heads"),
        ({"to_clean": True, "variance": "learned"}, "a velocity has no learned variance"),
    ],
)
def test_a_config_that_cannot_work_is_refused(given, message):
    with pytest.raises(BadInput, match=message):
        Config(**given)
