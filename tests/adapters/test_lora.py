"""Adapters as mathematics: each kind against its own definition, and merging that can be undone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from safelight.adapters.lora import Adapter, Layer, Merged, Spot, change
from safelight.errors import BadInput
from safelight.layouts.key_mapping import KeyRule, Pointwise, Swapped
from safelight.nn.kernels.compiled import library
from safelight.nn.kernels.convolution import Convolution3

DRAW = torch.Generator().manual_seed(0)


def some(*shape):
    return torch.randn(*shape, generator=DRAW)


def test_a_linear_layer_with_lora_is_the_layer_beside_two_thin_ones():
    weight, up, down, x = some(6, 5), some(6, 2), some(2, 5), some(3, 5)
    merged = weight + change(weight, {"up": up, "down": down, "alpha": torch.tensor(1.0)})
    torch.testing.assert_close(x @ merged.T, x @ weight.T + 0.5 * (x @ down.T) @ up.T)
    whole = weight + change(weight, {"up": up, "down": down})
    torch.testing.assert_close(x @ whole.T, x @ weight.T + (x @ down.T) @ up.T)


def test_a_convolution_with_lora_is_the_layer_beside_two_or_three():
    weight, up, down, x = some(6, 5, 3, 3), some(6, 2, 1, 1), some(2, 5, 3, 3), some(1, 5, 8, 8)
    merged = weight + change(weight, {"up": up, "down": down})
    wanted = F.conv2d(x, weight) + F.conv2d(F.conv2d(x, down), up)
    torch.testing.assert_close(F.conv2d(x, merged), wanted, atol=1e-4, rtol=1e-4)
    first, mid = some(2, 5, 1, 1), some(2, 2, 3, 3)
    merged = weight + change(weight, {"up": up, "mid": mid, "down": first})
    wanted = F.conv2d(x, weight) + F.conv2d(F.conv2d(F.conv2d(x, first), mid), up)
    torch.testing.assert_close(F.conv2d(x, merged), wanted, atol=1e-4, rtol=1e-4)


def test_hadamard_and_kronecker_factors():
    weight = some(6, 4)
    a, b, c, d = some(6, 2), some(2, 4), some(6, 2), some(2, 4)
    loha = {
        "hada_w1_a": a,
        "hada_w1_b": b,
        "hada_w2_a": c,
        "hada_w2_b": d,
        "alpha": torch.tensor(4.0),
    }
    torch.testing.assert_close(change(weight, loha), 2 * (a @ b) * (c @ d))
    small, large = some(2, 2), some(3, 2)
    blocks = torch.cat([torch.cat([small[i, j] * large for j in range(2)], 1) for i in range(2)])
    torch.testing.assert_close(
        change(weight, {"lokr_w1": small, "lokr_w2": large, "alpha": torch.tensor(9.0)}), blocks
    )
    thin = {
        "lokr_w1": small,
        "lokr_w2_a": large[:, :1],
        "lokr_w2_b": large[:1],
        "alpha": torch.tensor(2.0),
    }
    torch.testing.assert_close(
        change(weight, thin), 2 * torch.kron(small, large[:, :1] @ large[:1])
    )


def test_convolutions_of_hadamard_and_kronecker_factors():
    weight, core, a, b = some(6, 4, 3, 3), some(2, 2, 3, 3), some(2, 6), some(2, 4)
    loha = {
        f"hada_{name}": one
        for i in "12"
        for name, one in ((f"t{i}", core), (f"w{i}_a", a), (f"w{i}_b", b))
    }
    one = sum(
        core[i, j] * a[i, :, None, None, None] * b[j, None, :, None, None]
        for i in range(2)
        for j in range(2)
    )
    torch.testing.assert_close(change(weight, loha), one**2, atol=1e-4, rtol=1e-4)
    small, large = some(2, 2), some(3, 2, 3, 3)
    found = change(weight, {"lokr_w1": small, "lokr_w2": large})
    torch.testing.assert_close(found[3:, :2], small[1, 0] * large)


@pytest.mark.parametrize(("shape", "along"), [((6, 1), 1), ((1, 4), 0), ((6,), 1)])
def test_dora_gives_rows_or_columns_the_lengths_that_it_learned(shape, along):
    weight, up, down, magnitude = some(6, 4), some(6, 2), some(2, 4), some(*shape).abs()
    merged = weight + change(weight, {"up": up, "down": down, "magnitude": magnitude})
    torch.testing.assert_close(merged.norm(dim=along), magnitude.flatten())
    torch.testing.assert_close(
        F.normalize(merged, dim=along), F.normalize(weight + up @ down, dim=along)
    )


class Tiny(nn.Module):
    """A fused layer, and a convolution with derived filters."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.conv = Convolution3(16, 64)


def adapter(*layers, name="it"):
    rules = {
        "q": KeyRule("qkv.weight", ("q.weight", "k.weight", "v.weight"), Pointwise(2)),
        "swapped": KeyRule("qkv.bias", ("theirs.bias",), Swapped()),
        "conv": KeyRule("conv.weight", ("conv.weight",)),
    }
    return Adapter(
        name,
        tuple(Layer("denoiser", key, tensors, Spot(rules[key], at)) for key, at, tensors in layers),
    )


def test_a_change_to_a_part_of_a_fused_tensor_in_its_own_shape():
    network = Tiny()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    up, down, bias = some(4, 2, 1, 1), some(2, 4, 1, 1), some(12)
    merged = Merged({"denoiser": network})
    merged.use({adapter(("q", 1, {"up": up, "down": down}), ("swapped", 0, {"diff": bias})): 0.5})
    wanted = before["qkv.weight"].clone()
    wanted[4:8] += 0.5 * (up.flatten(1) @ down.flatten(1))
    torch.testing.assert_close(network.qkv.weight.data, wanted)
    torch.testing.assert_close(network.qkv.bias.data, before["qkv.bias"] + 0.5 * bias.roll(6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_at_once_swapped_and_taken_out_to_the_bit(dtype):
    network = Tiny().to(dtype)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    one = adapter(("q", 0, {"up": some(4, 2), "down": some(2, 4)}))
    two = adapter(
        ("q", 0, {"up": some(4, 1), "down": some(1, 4)}), ("conv", 0, {"diff": some(64, 16, 3, 3)})
    )
    merged = Merged({"denoiser": network})
    changes = []
    for chosen in ({one: 1.0}, {two: 0.7}, {one: 1.0, two: 0.7}):
        merged.use(chosen)
        changes.append(network.qkv.weight.float() - before["qkv.weight"].float())
    torch.testing.assert_close(
        changes[0] + changes[1], changes[2], atol=0.03 if dtype == torch.bfloat16 else 1e-5, rtol=0
    )
    merged.use({one: 1.0})
    torch.testing.assert_close(
        network.qkv.weight.float() - before["qkv.weight"].float(), changes[0], atol=0, rtol=0
    )
    assert torch.equal(network.conv.weight, before["conv.weight"])
    merged.use({one: 0.0})
    assert not merged.kept
    merged.use({two: 3.0})
    merged.clear()
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())


def test_what_was_derived_from_the_weights_is_made_again():
    if library() is None:
        pytest.skip("no kernels can be compiled here")
    network, x = Tiny().requires_grad_(False), some(1, 16, 8, 8)
    network.conv.quick = True
    merged = Merged({"denoiser": network})
    two = adapter(("conv", 0, {"diff": some(64, 16, 3, 3)}))
    plain = network.conv(x)
    merged.use({two: 1.0})
    wanted = F.conv2d(x, network.conv.weight, network.conv.bias, padding=1)
    assert not torch.allclose(wanted, plain, atol=0.1)
    torch.testing.assert_close(network.conv(x), wanted, atol=1e-3, rtol=1e-3)
    merged.clear()
    torch.testing.assert_close(network.conv(x), plain, atol=0, rtol=0)


def test_one_that_does_not_fit_changes_nothing():
    network = Tiny()
    merged = Merged({"denoiser": network})
    good = adapter(("q", 0, {"up": some(4, 2), "down": some(2, 4)}))
    merged.use({good: 1.0})
    before = {name: one.clone() for name, one in network.state_dict().items()}
    wrong = [
        ("q", 1, {"up": some(5, 2), "down": some(2, 4)}),
        ("conv", 0, {"diff": some(16, 64, 3, 3)}),
    ]
    for layer in wrong:
        bad = adapter(layer, name="bad")
        with pytest.raises(BadInput, match=r"bad: .* does not go with a weight of shape"):
            merged.use({good: 0.5, bad: 1.0})
    with pytest.raises(BadInput, match="bad: q has only down; the file is not whole"):
        merged.use({adapter(("q", 1, {"down": some(2, 4)}), name="bad"): 1.0})
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
