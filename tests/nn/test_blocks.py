"""Blocks are found without their networks' help; computed anew they give the same gradients and
keep less."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from safelight.autoencoders.kl.config import Config as KL
from safelight.autoencoders.tiny.config import Config as Tiny
from safelight.conditioners.text import Config as Text
from safelight.denoisers.dit.config import Config as DiT
from safelight.nn.blocks import blocks, recompute
from safelight.types.networks import Condition, Prompt

NETWORKS = {
    "kl": (KL(width=8, multipliers=(1, 2), groups=4), 18),
    "tiny": (Tiny(width=8, blocks=1), 8),
    "dit": (DiT(width=32, depth=3, heads=2, text="none"), 3),
    "text": (Text(vocabulary=300, width=16, depth=2, heads=2), 2),
}


def answer(network, name):
    """Something that depends on every block."""
    noise = torch.Generator().manual_seed(1)
    if name == "text":
        return network([Prompt("a red fox"), Prompt("")]).tokens.values
    if name == "dit":
        noisy = torch.randn(2, 4, 8, 8, generator=noise)
        return network(noisy, torch.tensor([100.0, 700.0]), Condition())
    return network.decode(network.encode(torch.randn(2, 3, 32, 32, generator=noise)).mean)


@pytest.fixture(params=NETWORKS)
def pair(request):
    """A network with weights that answer something, and its copy that computes anew."""
    config, _ = NETWORKS[request.param]
    torch.manual_seed(0)
    network = config.build()
    if request.param == "text":
        network.fit([Prompt("a red fox")])
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    again = copy.deepcopy(network)
    recompute(again)
    return request.param, network, again


def kept(network, name):
    """The bytes that one forward pass keeps for the backward pass: tensors saved, and what entered
    the blocks."""
    found = {}

    def keep(tensor):
        found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def enter(block, given):
        for tensor in (one for one in given if isinstance(one, torch.Tensor)):
            keep(tensor)

    hooks = [block.register_forward_pre_hook(enter) for block in blocks(network)]
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = answer(network, name)
    for hook in hooks:
        hook.remove()
    weights = {p.data_ptr() for p in network.parameters()}
    return sum(size for place, size in found.items() if place not in weights), result


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_found_and_lie_in_no_other(name):
    config, count = NETWORKS[name]
    network = config.build()
    found = list(blocks(network))
    assert len(found) == count
    assert not any(
        inner is not outer and inner in list(outer.modules()) for inner in found for outer in found
    )
    inside = sum(p.numel() for block in found for p in block.parameters())
    assert inside > 0.4 * sum(p.numel() for p in network.parameters())


def test_a_stack_of_plain_layers_has_no_blocks():
    assert list(blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))) == []


def test_gradients_are_the_same_to_the_bit_and_less_is_kept(pair):
    name, network, again = pair
    (before, first), (after, second) = kept(network, name), kept(again, name)
    assert torch.equal(first, second)
    assert after < 0.6 * before, (before, after)
    for result in (first, second):
        result.square().sum().backward()
    gradients = {key: p.grad for key, p in network.named_parameters()}
    assert sum(g is not None and bool(g.any()) for g in gradients.values()) > 0.9 * len(gradients)
    for key, p in again.named_parameters():
        assert (p.grad is None and gradients[key] is None) or torch.equal(p.grad, gradients[key]), (
            key
        )


def test_names_stay_and_a_copy_stands_alone(pair):
    name, network, again = pair
    assert list(again.state_dict()) == list(network.state_dict())
    other = copy.deepcopy(again)
    wanted = answer(again, name)
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    assert torch.equal(answer(other, name), wanted)
    assert not torch.equal(answer(again, name), wanted)


def test_a_gradient_may_be_asked_for_twice(pair):
    """As the adaptive weight of a discriminator does."""
    name, _, network = pair
    result = answer(network, name)
    *_, last = list(blocks(network))[-1].parameters()
    (first,) = torch.autograd.grad(result.square().sum(), last, retain_graph=True)
    result.square().sum().backward()
    assert torch.equal(last.grad, first)
