"""What is the diffusion transformer's own."""

import pytest
import torch

from safelight.denoisers.dit import Config
from safelight.errors import BadInput
from safelight.types import Condition, Tokens

SMALL = {"width": 24, "depth": 2, "heads": 2, "text_width": 8}


@pytest.mark.parametrize("text", ["none", "cross", "joint"])
@pytest.mark.parametrize("modulation", ["block", "shared"])
def test_it_starts_at_zero_and_its_blocks_as_the_identity(text, modulation):
    network = Config(**SMALL, text=text, modulation=modulation).build()
    tokens = None if text == "none" else Tokens(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    noisy, time = torch.randn(2, 4, 4, 6), torch.rand(2)
    assert torch.equal(network(noisy, time, Condition(tokens)), torch.zeros_like(noisy))
    torch.nn.init.normal_(network.final.linear.weight)
    with_blocks = network(noisy, time, Condition(tokens))
    network.blocks = torch.nn.ModuleList()
    assert with_blocks.std() > 0.1
    assert torch.equal(network(noisy, time, Condition()), with_blocks)


@pytest.mark.parametrize(("axes", "space"), [(1, (10,)), (2, (6, 4)), (3, (4, 6, 4))])
@pytest.mark.parametrize("text", ["cross", "joint"])
def test_any_number_of_axes_each_of_which_matters(axes, space, text):
    torch.manual_seed(0)
    network = Config(**SMALL | {"heads": 1}, axes=axes, text=text).build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    noisy, time = torch.randn(2, 4, *space), torch.rand(2)
    tokens = Tokens(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    answer = network(noisy, time, Condition(tokens))
    assert answer.shape == noisy.shape
    for axis in range(2, 2 + axes):
        rolled = network(noisy.roll(2, dims=axis), time, Condition(tokens))
        assert not torch.allclose(rolled, answer.roll(2, dims=axis), atol=1e-3)


def test_joint_text_is_read_in_order():
    torch.manual_seed(0)
    network = Config(**SMALL, text="joint").build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    values, mask = torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool)
    noisy, time = torch.randn(1, 4, 4, 4), torch.rand(1)
    forwards = network(noisy, time, Condition(Tokens(values, mask)))
    assert not torch.allclose(network(noisy, time, Condition(Tokens(values.flip(1), mask))), forwards, atol=1e-3)


def test_sharing_the_modulation_saves_most_of_its_parameters():
    def modulation(kind):
        network = Config(width=64, depth=8, heads=2, modulation=kind).build()
        return sum(p.numel() for name, p in network.named_parameters() if "modulation" in name)

    assert modulation("shared") < modulation("block") / 4


@pytest.mark.parametrize(
    ("noisy", "message"),
    [
        (torch.zeros(1, 4, 4, 5), "4×5 cannot be cut into patches of 2"),
        (torch.zeros(1, 3, 4, 4), "takes 4 channels on 2 spatial axes, not latents of shape \\(1, 3, 4, 4\\)"),
        (torch.zeros(1, 4, 4), "takes 4 channels on 2 spatial axes"),
    ],
)
def test_latents_that_do_not_fit_are_refused(noisy, message):
    with pytest.raises(BadInput, match=message):
        Config(**SMALL).build()(noisy, torch.zeros(1), Condition())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch": 0}, "patch must be above 0, not 0"),
        ({"mlp_ratio": -1.0}, "mlp_ratio must be above 0"),
        ({"vector_width": -1}, "vector_width must be 0"),
        ({"width": 100, "heads": 3}, "width of 100 does not give 3 heads"),
        ({"width": 12, "heads": 3, "axes": 3}, "too narrow for positions on 3 axes"),
    ],
)
def test_a_config_that_cannot_work_is_refused(given, message):
    with pytest.raises(BadInput, match=message):
        Config(**given)
