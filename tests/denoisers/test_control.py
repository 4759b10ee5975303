"""Denoisers under control."""

from dataclasses import replace

import pytest
import torch

from safelight.config import Slot, dump
from safelight.denoisers.control.flux.config import Config as FluxControl
from safelight.denoisers.control.mmdit.config import Config as MMDiTControl
from safelight.denoisers.control.t2i.config import Config as T2I
from safelight.denoisers.control.unet.config import Config
from safelight.denoisers.flux import config as flux_config
from safelight.denoisers.mmdit import config as mmdit_config
from safelight.denoisers.unet.config import Config as UNetConfig
from safelight.denoisers.unet.config import Level, Norm
from safelight.errors import BadInput
from safelight.nn.control import Branch, Controlled
from safelight.types.networks import Condition, Denoiser, Tokens

SMALL = UNetConfig(
    levels=(Level(32, 1, 2), Level(64, 1, 4)), blocks=1, text_width=8, norm=Norm(8), classes=3
)
HINT = torch.rand(1, 3, 32, 48)
TRANSFORMERS = {
    "mmdit": mmdit_config.Config(
        4, width=32, depth=4, heads=2, text_width=8, vector_width=5, side=8
    ),
    "flux": flux_config.Config(
        4, width=32, axes=(4, 6, 6), double=2, single=2, text_width=8, vector_width=5
    ),
}
BRANCHES = {
    "mmdit": MMDiTControl(replace(TRANSFORMERS["mmdit"], depth=2), mask=True),
    "flux": FluxControl(replace(TRANSFORMERS["flux"], single=1)),
}


def shaken(network):
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


@pytest.fixture
def parts():
    torch.manual_seed(0)
    network, branch = shaken(SMALL.build()), shaken(Config(SMALL, hints=(8, 8, 8, 8)).build())
    adapter = shaken(T2I(widths=(32, 64), blocks=1, ahead=5).build())
    words = Tokens(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    given = Condition(words, scalars={"noise_level": torch.ones(2)})
    return network, branch, adapter, given, torch.randn(2, 4, 4, 6), torch.tensor([900.0, 100.0])


def test_kinds_of_control_are_files():
    slot = Slot("denoisers.control")
    assert slot.kinds() == ["flux", "mmdit", "t2i", "unet"]
    for config in (Config(SMALL), T2I(), BRANCHES["flux"], BRANCHES["mmdit"]):
        assert slot.read(slot.write(config)) == config
        assert dump(config)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_fresh_branch_of_a_transformer_changes_nothing_and_learns(kind):
    torch.manual_seed(0)
    network, branch = shaken(TRANSFORMERS[kind].build()), BRANCHES[kind].build()
    words = Tokens(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    given, noisy, time = (
        Condition(words, vector=torch.randn(2, 5)),
        torch.randn(2, 4, 4, 6),
        torch.tensor([900.0, 9.0]),
    )
    hint = torch.rand(1, branch.hint_channels, 8, 12)
    held = Controlled(
        network, branch, hint, encode=lambda images: images.repeat(1, 2, 1, 1)[:, :4, ::2, ::2]
    )
    assert isinstance(branch, Branch)
    assert isinstance(held, Denoiser)
    answer = held(noisy, time, given)
    assert torch.equal(answer, network(noisy, time, given))
    assert torch.equal(held.variant((), ())(noisy, time, given), answer)
    answer.square().sum().backward()
    assert all(zero.weight.grad.abs().sum() > 0 for zero in branch.zeros)
    prepared = held.prepare(given)
    assert held.prepare(prepared) is prepared


@torch.no_grad()
def test_a_fresh_branch_changes_nothing_and_begins_as_the_network(parts):
    network, _, _, given, noisy, time = parts
    fresh = Config(SMALL).build().copy(network)
    assert torch.equal(fresh.encoder.enter.weight, network.encoder.enter.weight)
    assert torch.equal(
        Controlled(network, fresh, HINT)(noisy, time, given), network(noisy, time, given)
    )


@torch.no_grad()
def test_it_is_a_denoiser_that_can_be_prepared_and_left_out_of(parts):
    network, branch, _, given, noisy, time = parts
    controlled = Controlled(network, branch, HINT)
    assert isinstance(controlled, Denoiser)
    assert controlled.size_multiple == network.size_multiple
    assert controlled.scalar_names == network.scalar_names == {"noise_level"}
    answer = controlled(noisy, time, given)
    assert not torch.allclose(answer, network(noisy, time, given), atol=1e-3)
    assert torch.equal(controlled(noisy, time, controlled.prepare(given)), answer)
    assert torch.equal(controlled.variant((), ())(noisy, time, given), answer)
    assert not torch.allclose(controlled.variant((), (0,))(noisy, time, given), answer, atol=1e-4)


@torch.no_grad()
def test_control_upon_control_adds_up(parts):
    network, branch, adapter, given, noisy, time = parts
    twice = Controlled(Controlled(network, branch, HINT, 0.5), branch, HINT, 0.5)
    torch.testing.assert_close(
        twice(noisy, time, given), Controlled(network, branch, HINT)(noisy, time, given)
    )
    assert not torch.allclose(twice(noisy, time, given), network(noisy, time, given), atol=1e-3)
    prepared = twice.prepare(given)
    assert torch.equal(twice(noisy, time, prepared), twice(noisy, time, given))
    one = Controlled(Controlled(network, adapter, HINT), branch, HINT)
    other = Controlled(Controlled(network, branch, HINT), adapter, HINT)
    torch.testing.assert_close(one(noisy, time, given), other(noisy, time, given))
    assert not torch.allclose(
        one(noisy, time, given), Controlled(network, adapter, HINT)(noisy, time, given), atol=1e-3
    )


@torch.no_grad()
def test_control_acts_in_its_span_of_the_way(parts):
    network, branch, _, given, noisy, time = parts
    free, whole = network(noisy, time, given), Controlled(network, branch, HINT)(noisy, time, given)
    late = Controlled(network, branch, HINT, begin=0.5)(noisy, time, given)
    torch.testing.assert_close(late[0], free[0])
    torch.testing.assert_close(late[1], whole[1])
    never = Controlled(network, branch, HINT, begin=0.2, end=0.3)(noisy, time, given)
    assert torch.equal(never, free)


@torch.no_grad()
def test_each_sample_has_its_own_picture_over_and_over(parts):
    network, branch, _, given, noisy, time = parts
    hints = 30 * torch.randn(2, 3, 32, 48)
    both = Controlled(network, branch, hints)(noisy, time, given)
    second = Controlled(network, branch, hints[1:])(noisy, time, given)
    torch.testing.assert_close(both[1], second[1])
    assert not torch.allclose(both[0], second[0], atol=1e-3)
    with pytest.raises(BadInput, match="3 control pictures cannot be shared among 2"):
        Controlled(network, branch, torch.rand(3, 3, 32, 48))(noisy, time, given)


def test_what_does_not_fit_is_refused(parts):
    network, branch, adapter, given, noisy, time = parts
    with pytest.raises(BadInput, match="3 channels and sides that are multiples of 8"):
        branch.encode_hint(torch.rand(1, 3, 30, 48))
    with pytest.raises(BadInput, match="3 channels and sides that are multiples of 8"):
        adapter.encode_hint(torch.rand(1, 1, 32, 48))
    with pytest.raises(BadInput, match="for latents of 4×4, not 4×6"):
        Controlled(network, branch, torch.rand(1, 3, 32, 32))(noisy, time, given)
    with pytest.raises(BadInput, match="begins and ends within 0 and 1"):
        Controlled(network, branch, HINT, begin=0.5, end=0.5)
    with pytest.raises(BadInput, match="numbers are 1 or more"):
        T2I(blocks=0)
    with pytest.raises(BadInput, match="hints that each have a width"):
        Config(SMALL, hints=())
