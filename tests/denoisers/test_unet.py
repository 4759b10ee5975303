"""What is the U-Net's own."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from safelight.denoisers.unet.blocks import blocks
from safelight.denoisers.unet.config import Config, Level, Norm
from safelight.errors import BadInput
from safelight.nn.attention import CrossAttention
from safelight.nn.kernels.convolution import Convolution3
from safelight.nn.norms import GroupNorm
from safelight.nn.spatial_transformer import PlainAttention, Transformer
from safelight.types.networks import Condition, Denoiser, Tokens

SMALL = Config(levels=(Level(32, 1, 2), Level(64, 2, 4)), blocks=1, text_width=8, norm=Norm(8))
PLAIN = replace(SMALL, levels=(Level(32, 1, 2), Level(64, 1, 4)), text_width=0)


def skewed(config=SMALL):
    """A network whose parameters all matter, and what it is asked."""
    torch.manual_seed(0)
    network = config.build()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    given = Condition(Tokens(torch.randn(2, 3, 8), mask)) if config.text_width else Condition()
    return network, torch.randn(2, 4, 4, 6), 999 * torch.rand(2), given


@pytest.mark.parametrize(
    "config", [SMALL, PLAIN, replace(PLAIN, norm=Norm(8, modulated=True), residual_resize=True)]
)
def test_it_starts_at_zero_and_its_blocks_as_their_skips(config):
    network = config.build()
    noisy, time = torch.randn(2, 4, 4, 6), torch.rand(2)
    assert torch.equal(network(noisy, time, Condition()), torch.zeros_like(noisy))
    x, emb = torch.randn(2, 64, 4, 6), torch.randn(2, config.embedding_width)
    assert torch.equal(network.encoder.middle(x, emb, ((),) * 2, "whole"), x)


def test_stable_diffusion_1_has_sixteen_layers_of_attention():
    levels = (Level(320), Level(640), Level(1280), Level(1280, 0))
    with torch.device("meta"):
        network = Config(levels=levels, text_width=768, linear=False).build()
    assert [one.attention is not None for one in blocks(network)] == [True] * 6 + [False] * 2 + [
        True
    ] + [False] * 3 + [True] * 9


@pytest.mark.parametrize("config", [SMALL, PLAIN])
@torch.no_grad()
def test_left_out_attention_is_as_if_it_were_not_there(config):
    network, noisy, time, given = skewed(config)
    assert isinstance(network, Denoiser)
    assert torch.equal(network.variant((), ())(noisy, time, given), network(noisy, time, given))
    found = network.variant((0, 2), ())(noisy, time, given)
    assert not torch.allclose(found, network(noisy, time, given), atol=1e-3)
    layers = [one for one in network.modules() if isinstance(one, Transformer | PlainAttention)]
    for layer in (layers[0], layers[2]):
        nn.init.zeros_(layer.leave.weight)
        nn.init.zeros_(layer.leave.bias)
    torch.testing.assert_close(found, network(noisy, time, given))


@pytest.mark.parametrize("config", [SMALL, PLAIN])
@torch.no_grad()
def test_places_that_see_only_themselves_know_nothing_of_the_others(config):
    """The attention of each place alone is what it is in a picture of that place."""
    network, *_ = skewed(config)
    layer = network.encoder.middle.attention
    layer.norm = nn.Identity()
    x, crosses = torch.randn(2, 64, 4, 6), 2 if config.text_width else 0
    whole = layer(x, ((),) * crosses, "alone")
    one = layer(x[..., 2:3, 3:4], ((),) * crosses, "whole")
    torch.testing.assert_close(whole[..., 2:3, 3:4], one)
    assert not torch.allclose(whole, layer(x, ((),) * crosses, "whole"), atol=1e-3)


def test_layers_that_are_not_there_are_refused():
    network, *_ = skewed()
    with pytest.raises(BadInput, match="attention layers 0 to 6, not 7"):
        network.variant((7,), ())


@torch.no_grad()
def test_a_stream_is_attended_to_by_itself_with_keys_and_values_of_its_own():
    network, noisy, time, given = skewed()
    crosses = [one for one in network.modules() if isinstance(one, CrossAttention)]
    words = torch.randn(2, 5, 8)
    made = tuple(one for cross in crosses for one in cross.project(words))
    stream = Tokens(words, torch.ones(2, 5, dtype=torch.bool), made)
    both = network(noisy, time, replace(given, streams=(stream,)))
    assert not torch.allclose(both, network(noisy, time, given), atol=1e-3)
    torch.testing.assert_close(
        network(noisy, time, Condition(streams=(stream,))),
        network(noisy, time, Condition(replace(stream, projected=()))),
    )
    silent = replace(
        stream, projected=tuple(one * (number % 2 == 0) for number, one in enumerate(made))
    )
    torch.testing.assert_close(
        network(noisy, time, replace(given, streams=(silent,))), network(noisy, time, given)
    )
    with pytest.raises(BadInput, match="streams with the keys and values that an adapter made"):
        network(noisy, time, replace(given, streams=(replace(stream, projected=made[2:]),)))


@torch.no_grad()
def test_an_adapter_adds_to_the_way_down_and_control_to_what_it_leaves():
    network, noisy, time, given = skewed()
    sizes = ((32, 4, 6), (32, 4, 6), (32, 2, 3), (64, 2, 3), (64, 2, 3))
    control = tuple(torch.randn(2, *size) for size in sizes)
    trunk = (torch.randn(2, 32, 4, 6), torch.randn(2, 64, 2, 3))
    after = (*trunk, torch.randn(2, 64, 2, 3))
    plain = network(noisy, time, given)
    seen = [
        network(noisy, time, replace(given, residuals=one))
        for one in (control, trunk, after, control + trunk)
    ]
    for number, one in enumerate(seen):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in [plain, *seen[:number]])
    nothing = tuple(torch.zeros(1) for _ in control)
    torch.testing.assert_close(
        network(noisy, time, replace(given, residuals=nothing + trunk)), seen[1]
    )
    with pytest.raises(BadInput, match="takes 5 residuals"):
        network(noisy, time, replace(given, residuals=control[1:]))


@torch.no_grad()
def test_the_compiled_kernels_and_channels_last_change_nothing():
    config = replace(SMALL, levels=(Level(64, 1, 2), Level(128, 1, 4)), norm=Norm(32))
    network, noisy, time, given = skewed(config)
    want = network(noisy, time, given)
    network.to(memory_format=torch.channels_last)
    for one in network.modules():
        if isinstance(one, Convolution3 | GroupNorm):
            one.quick = True
    torch.testing.assert_close(network(noisy, time, given), want, atol=1e-4, rtol=1e-4)
    half = network.bfloat16()(noisy, time, given)
    assert (half - want).norm() / want.norm() < 0.03


@pytest.mark.parametrize(
    ("noisy", "given", "message"),
    [
        (
            torch.zeros(1, 4, 4, 5),
            Condition(),
            r"multiples of 2, not latents of shape \(1, 4, 4, 5\)",
        ),
        (torch.zeros(1, 3, 4, 4), Condition(), "takes 4 channels"),
        (
            torch.zeros(1, 4, 4, 4),
            Condition(Tokens(torch.zeros(1, 1, 7), torch.ones(1, 1).bool())),
            "8 wide, got 7",
        ),
    ],
)
def test_what_does_not_fit_is_refused(noisy, given, message):
    with pytest.raises(BadInput, match=message):
        SMALL.build()(noisy, torch.zeros(1), given)


def test_a_scalar_that_it_does_not_know_is_refused():
    network = replace(SMALL, classes=3).build()
    with pytest.raises(BadInput, match="takes the scalar noise_level, got scale"):
        network(
            torch.zeros(1, 4, 4, 4), torch.zeros(1), Condition(scalars={"scale": torch.ones(1)})
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"levels": ()}, "levels that each have a width"),
        ({"classes": -1}, "0 or more"),
        ({"norm": Norm(24)}, "32 wide cannot be normalised in 24 groups"),
        ({"levels": (Level(32, 1, 3),)}, "32 wide cannot be shared by 3 heads"),
        ({"text_width": 0}, "plain attention has a depth of 1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(given, message):
    with pytest.raises(BadInput, match=message):
        replace(SMALL, **given)
