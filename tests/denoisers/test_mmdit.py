"""What is the two streams' own. Its numbers are held to the original's in
tests/layouts/test_mmdit_layouts.py."""

import pytest
import torch

from safelight.denoisers.mmdit.config import Config
from safelight.errors import BadInput
from safelight.types.networks import Condition, Denoiser, Tokens

SMALL = {
    "channels": 4,
    "width": 24,
    "depth": 3,
    "heads": 2,
    "text_width": 8,
    "vector_width": 5,
    "side": 6,
}


def skewed(**changes):
    """A small network whose parameters all matter, and what it is asked."""
    torch.manual_seed(0)
    network = Config(**SMALL | changes).build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    given = Condition(Tokens(torch.randn(2, 3, 8), mask), vector=torch.randn(2, 5))
    return network, torch.randn(2, 4, 4, 6), 1000 * torch.rand(2), given


def test_it_starts_at_zero_and_its_blocks_as_the_identity():
    network = Config(**SMALL, dual=(1,)).build()
    _, noisy, time, given = skewed()
    assert torch.equal(network(noisy, time, given), torch.zeros_like(noisy))
    torch.nn.init.normal_(network.final.linear.weight)
    with_blocks = network(noisy, time, given)
    network.blocks = torch.nn.ModuleList()
    assert with_blocks.std() > 0.1
    assert torch.equal(network(noisy, time, given), with_blocks)


@pytest.mark.parametrize("skip", [(0,), (1, 2)])
def test_left_out_blocks_are_as_if_they_were_not_there(skip):
    network, noisy, time, given = skewed(dual=(0, 1))
    assert isinstance(network, Denoiser)
    found = network.variant(skip, ())(noisy, time, given)
    assert not torch.allclose(found, network(noisy, time, given), atol=1e-3)
    for index in skip:
        for stream in (network.blocks[index].patches, network.blocks[index].text):
            for one in (stream.modulation.linear.weight, stream.modulation.linear.bias):
                rows = one.data.view(stream.modulation.parts, 24, -1)
                rows[2::3] = 0  # the gates
    torch.testing.assert_close(found, network(noisy, time, given))


def test_patches_that_see_only_themselves_and_the_text_know_nothing_of_the_others():
    """Where all blocks are so, a change elsewhere reaches a patch through the text alone, if there
    is any."""
    network, noisy, time, given = skewed(dual=(0,))
    alone = network.variant((), (0, 1, 2))
    other = noisy.clone()
    other[..., 2:] = 7
    assert torch.equal(
        alone(noisy, time, Condition())[..., :2], alone(other, time, Condition())[..., :2]
    )
    assert not torch.allclose(
        network(noisy, time, Condition())[..., :2], network(other, time, Condition())[..., :2]
    )
    assert not torch.allclose(
        alone(noisy, time, given)[..., :2], alone(other, time, given)[..., :2]
    )
    assert not torch.allclose(alone(noisy, time, given), network(noisy, time, given), atol=1e-3)


def test_positions_are_the_middle_of_its_table_which_is_read_and_not_made():
    network, noisy, time, given = skewed()
    network.positions.table.normal_()
    answer = network(noisy, time, given)  # 2 × 3 patches of 6 × 6: rows 2 and 3, columns 1 to 3
    outside = network.positions.table.view(6, 6, 24).clone()
    outside[2:4, 1:4] = 0
    network.positions.table.add_(outside.view(1, 36, 24))
    assert torch.equal(network(noisy, time, given), answer)
    network.positions.table.view(6, 6, 24)[2, 1, 0] += 1
    assert not torch.allclose(network(noisy, time, given), answer, atol=1e-3)
    with pytest.raises(BadInput, match="positions for 6×6 patches, not for 2×7"):
        network(torch.zeros(1, 4, 4, 14), torch.zeros(1), given)


def test_few_residuals_serve_several_blocks_and_the_last_none():
    network, noisy, time, _ = skewed()
    residuals = tuple(torch.randn(2, 6, 24) for _ in range(3))
    one, each = (Condition(residuals=given) for given in (residuals[:1], (residuals[0],) * 3))
    assert torch.equal(network(noisy, time, one), network(noisy, time, each))
    unused = Condition(residuals=(*residuals[:2], residuals[0]))
    assert torch.equal(
        network(noisy, time, Condition(residuals=residuals)), network(noisy, time, unused)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch": 0}, "patch must be above 0, not 0"),
        ({"width": 100, "heads": 3}, "width of 100 cannot be shared by 3 heads"),
        ({"width": 30, "heads": 3}, "width of 30 cannot be shared"),
        ({"depth": 2, "dual": (2,)}, "dual must name blocks from 0 to 1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(given, message):
    with pytest.raises(BadInput, match=message):
        Config(**given)
