"""What is the diffusion transformer's own."""

import pytest
import torch

from safelight.denoisers.dit.config import Config
from safelight.errors import BadInput
from safelight.nn.attention import self_only_mask
from safelight.types.networks import Condition, Denoiser, Tokens

SMALL = {"width": 24, "depth": 2, "heads": 2, "text_width": 8}


@pytest.mark.parametrize("text", ["none", "cross", "joint"])
@pytest.mark.parametrize("modulation", ["block", "shared"])
def test_it_starts_at_zero_and_its_blocks_as_the_identity(text, modulation):
    network = Config(**SMALL, text=text, modulation=modulation).build()
    tokens = (
        None if text == "none" else Tokens(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    )
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
    assert not torch.allclose(
        network(noisy, time, Condition(Tokens(values.flip(1), mask))), forwards, atol=1e-3
    )


def test_sharing_the_modulation_saves_most_of_its_parameters():
    def modulation(kind):
        network = Config(width=64, depth=8, heads=2, modulation=kind).build()
        return sum(p.numel() for name, p in network.named_parameters() if "modulation" in name)

    assert modulation("shared") < modulation("block") / 4


def skewed(**changes):
    """A small network of three blocks whose parameters all matter, and what it is asked."""
    torch.manual_seed(0)
    network = Config(**SMALL | {"depth": 3}, **changes).build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    given = (
        Condition(Tokens(torch.randn(2, 3, 8), mask))
        if changes.get("text") != "none"
        else Condition()
    )
    return network, torch.randn(2, 4, 4, 6), 1000 * torch.rand(2), given


@pytest.mark.parametrize("text", ["none", "cross", "joint"])
def test_left_out_blocks_are_as_if_they_were_not_there(text):
    network, noisy, time, given = skewed(text=text)
    assert isinstance(network, Denoiser)
    found = network.variant((0, 2), ())(noisy, time, given)
    assert torch.equal(network.variant((), ())(noisy, time, given), network(noisy, time, given))
    for block in (network.blocks[0], network.blocks[2]):
        for gate in (block.modulation.linear.weight, block.modulation.linear.bias):
            rows = gate.data.view(6, 24, -1)
            rows[2] = rows[5] = 0  # the gates of attention and MLP
        if block.cross is not None:
            torch.nn.init.zeros_(block.cross.out.weight)
            torch.nn.init.zeros_(block.cross.out.bias)
    torch.testing.assert_close(found, network(noisy, time, given))


@pytest.mark.parametrize("text", ["none", "cross"])
def test_patches_that_see_only_themselves_have_the_identity_as_their_map(text):
    """Then attention gives each patch its own value."""
    network, noisy, time, given = skewed(text=text)
    found = network.variant((), (1,))(noisy, time, given)
    assert not torch.allclose(found, network(noisy, time, given), atol=1e-3)
    attention = network.blocks[1].attention
    attention.forward = lambda x, rope, mask: attention.out(attention.qkv(x)[..., 48:])
    torch.testing.assert_close(found, network(noisy, time, given))


def test_patches_that_see_only_themselves_know_nothing_of_the_others():
    """Where all blocks are so, and the text with all that it saw is masked, a patch's answer is its
    own."""
    network, noisy, time, given = skewed(text="none")
    alone = network.variant((), (0, 1, 2))
    other = noisy.clone()
    other[..., 2:] = 7
    assert torch.equal(alone(noisy, time, given)[..., :2], alone(other, time, given)[..., :2])
    assert not torch.allclose(
        alone(noisy, time, given)[..., 2:], alone(other, time, given)[..., 2:]
    )


def test_joint_text_sees_and_is_seen_as_before():
    n, ahead, mask = 5, 2, torch.tensor([[True, False, True, True, True]])
    sees = self_only_mask(mask, n, ahead, mask.device)
    assert sees[0].int().tolist() == [
        [1, 0, 1, 1, 1],
        [1, 0, 1, 1, 1],
        *([1, 0, *row] for row in torch.eye(3).int().tolist()),
    ]
    network, noisy, time, given = skewed(text="joint")
    alone = network.variant((), (0, 1, 2))
    assert not torch.allclose(alone(noisy, time, given), network(noisy, time, given), atol=1e-3)
    told = Condition(Tokens(given.tokens.values + 1, given.tokens.mask))
    assert not torch.allclose(alone(noisy, time, given), alone(noisy, time, told), atol=1e-3)


@pytest.mark.parametrize(
    "blocks",
    [{"skip_blocks": (3,), "self_only_blocks": ()}, {"skip_blocks": (), "self_only_blocks": (-1,)}],
)
def test_blocks_that_are_not_there_are_refused(blocks):
    with pytest.raises(BadInput, match="this transformer has the blocks 0 to 2, not"):
        skewed()[0].variant(**blocks)


@pytest.mark.parametrize(
    ("noisy", "message"),
    [
        (torch.zeros(1, 4, 4, 5), "4×5 cannot be cut into patches of 2"),
        (
            torch.zeros(1, 3, 4, 4),
            "takes 4 channels on 2 spatial axes, not latents of shape \\(1, 3, 4, 4\\)",
        ),
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
