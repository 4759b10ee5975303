"""What is FLUX's own."""

import pytest
import torch

from safelight.denoisers.flux import blocks
from safelight.denoisers.flux.config import Config
from safelight.diffusion.guidance.distilled import Distilled
from safelight.diffusion.guided import guided
from safelight.diffusion.prediction import Flow
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Linear
from safelight.errors import BadInput
from safelight.layouts.text_families import joined
from safelight.nn.text_models import clip, t5
from safelight.types.networks import Condition, Denoiser, Prompt, Tokens

SMALL = {
    "channels": 4,
    "width": 32,
    "axes": (4, 6, 6),
    "double": 2,
    "single": 2,
    "text_width": 8,
    "vector_width": 5,
}
SECOND = SMALL | {"axes": (4, 4, 4, 4), "vector_width": 0, "generation": 2, "patch": 1}


def skewed(**changes):
    """A small network whose parameters all matter, and what it is asked."""
    torch.manual_seed(0)
    network = Config(**SMALL | changes).build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    return (
        network,
        torch.randn(2, 4, 4, 6),
        1000 * torch.rand(2),
        Condition(Tokens(torch.randn(2, 3, 8), mask)),
    )


@pytest.mark.parametrize("config", [SMALL, SECOND])
def test_it_starts_at_zero_and_its_blocks_as_the_identity(config):
    network = Config(**config).build()
    noisy, time = torch.randn(2, 4, 4, 6), torch.rand(2)
    told = Condition(Tokens(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)))
    assert torch.equal(network(noisy, time, told), torch.zeros_like(noisy))
    torch.nn.init.normal_(network.final.linear.weight)
    with_blocks = network(noisy, time, told)
    assert with_blocks.std() > 0.1
    assert torch.equal(network.variant(range(4), ())(noisy, time, told), with_blocks)


def test_latents_are_packed_channel_first():
    network = Config(**SMALL).build()
    latents = torch.arange(4 * 4 * 6).view(1, 4, 4, 6).float()
    packed = network.pack(latents)
    assert packed[0, 1].tolist() == [
        start + step for start in (2, 26, 50, 74) for step in (0, 1, 6, 7)
    ]
    assert torch.equal(network.unpack(packed, (2, 3)), latents)


def test_where_tokens_lie():
    first, second = Config(**SMALL).build(), Config(**SECOND).build()
    grids = [(1, 2), (2, 1), (1, 1)]
    assert first.places(2, grids, torch.device("cpu")).tolist() == [
        *([0, 0, 0], [0, 0, 0]),
        *([0, 0, 0], [0, 0, 1]),
        *([1, 0, 0], [1, 1, 0]),
        [2, 0, 0],
    ]
    assert second.places(2, grids, torch.device("cpu")).tolist() == [
        *([0, 0, 0, 0], [0, 0, 0, 1]),
        *([0, 0, 0, 0], [0, 0, 1, 0]),
        *([10, 0, 0, 0], [10, 1, 0, 0]),
        [20, 0, 0, 0],
    ]


def test_references_of_other_sizes_are_seen_and_are_not_the_answer():
    network, noisy, time, told = skewed()
    plain = network(noisy, time, told)
    pictures = (torch.randn(2, 4, 2, 8), torch.randn(2, 4, 6, 2))
    answer = network(noisy, time, Condition(told.tokens, references=pictures))
    other_way = network(noisy, time, Condition(told.tokens, references=pictures[::-1]))
    assert answer.shape == noisy.shape
    assert not torch.allclose(answer, plain, atol=1e-3)
    assert not torch.allclose(answer, other_way, atol=1e-3)


def test_left_out_guidance_is_a_scale_of_one():
    network, noisy, time, told = skewed()
    one = Condition(told.tokens, scalars={"guidance": torch.ones(2)})
    assert torch.equal(network(noisy, time, told), network(noisy, time, one))


def test_schnell_refuses_guidance_before_the_first_step():
    network, _, _, told = skewed(guidance=False)
    with pytest.raises(BadInput, match="needs a network that takes the scalar 'guidance'"):
        guided(
            Process(Linear(), Flow()), {"main": network}, Distilled(3.5), told, lambda only: told
        )
    with pytest.raises(BadInput, match="scalars"):
        network.prepare(Condition(scalars={"guidance": torch.ones(2)}))
    with pytest.raises(BadInput, match=r"takes the scalars \['guidance'\], not \['scale'\]"):
        skewed()[0].prepare(Condition(scalars={"scale": torch.ones(2)}))


@pytest.mark.parametrize("changes", [{}, SECOND])
def test_left_out_blocks_are_as_if_they_were_not_there(changes):
    network, noisy, time, told = skewed(**changes)
    assert isinstance(network, Denoiser)
    found = network.variant((0, 3), ())(noisy, time, told)
    assert torch.equal(network.variant((), ())(noisy, time, told), network(noisy, time, told))
    del network.double_blocks[0], network.single_blocks[1]
    assert torch.equal(found, network(noisy, time, told))


def test_patches_that_see_only_themselves_know_nothing_of_the_others():
    network, noisy, time, told = skewed()
    alone = network.variant((), range(4))
    other = noisy.clone()
    other[..., 2:] = 7
    assert torch.equal(
        alone(noisy, time, Condition())[..., :2], alone(other, time, Condition())[..., :2]
    )
    assert not torch.allclose(alone(noisy, time, told), network(noisy, time, told), atol=1e-3)


@pytest.mark.parametrize(
    "blocks",
    [{"skip_blocks": (4,), "self_only_blocks": ()}, {"skip_blocks": (), "self_only_blocks": (-1,)}],
)
def test_blocks_that_are_not_there_are_refused(blocks):
    with pytest.raises(BadInput, match="has the blocks 0 to 3, not"):
        skewed()[0].variant(**blocks)


@pytest.mark.parametrize(
    ("noisy", "message"),
    [
        (torch.zeros(1, 4, 4, 5), "4×5 cannot be cut into patches of 2"),
        (
            torch.zeros(1, 3, 4, 4),
            r"takes 4 channels on 2 spatial axes, not latents of shape \(1, 3, 4, 4\)",
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
        ({"vector_width": -1}, "vector_width must be 0 or more"),
        ({"axes": (4, 6)}, r"axes wants 3 even numbers of channels, got \(4, 6\)"),
        ({"axes": (4, 5, 7)}, "axes wants 3 even"),
        ({"width": 40}, "a width of 40 is no multiple of a head's 16 channels"),
    ],
)
def test_a_config_that_cannot_work_is_refused(given, message):
    with pytest.raises(BadInput, match=message):
        Config(**SMALL | given)


@pytest.mark.parametrize("config", [SMALL, SECOND])
def test_words_that_all_count_are_attended_to_without_a_mask(config, monkeypatch):
    network, noisy, time, told = skewed(**config)
    every = Condition(Tokens(told.tokens.values, torch.ones_like(told.tokens.mask)))
    handed = []

    def noted(q, k, v, mask=None, quick=False):
        handed.append(mask)
        return attend(q, k, v, mask, quick)

    attend = blocks.attend
    monkeypatch.setattr(blocks, "attend", noted)
    some, whole = network(noisy, time, told), network(noisy, time, every)
    assert [mask is None for mask in handed] == [False] * 4 + [True] * 4
    torch.testing.assert_close(some[:1], whole[:1])
    assert not torch.allclose(some[1], whole[1])


def test_padding_counts_as_it_does_in_the_original():
    """T5's padding is attended to: only pages that another prompt of the batch has are not."""
    small = t5.Config(width=8, depth=1, heads=2, head_width=4, hidden=16)
    conditioner = joined("flux", [clip.Config(8, 1, 2, 16), small]).build()
    with torch.no_grad():
        told = conditioner([Prompt("a fox"), Prompt("")])
    assert told.tokens.mask.shape == (2, 512)
    assert told.tokens.mask.all()
