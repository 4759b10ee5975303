"""Attention gives the same numbers whichever way it is computed."""

import pytest
import torch
from torch.nn import functional as F

import safelight.nn.attention as attention
from safelight.nn.attention import CrossAttention, SelfAttention


@pytest.mark.parametrize("masked", [False, True])
def test_the_plain_way_equals_the_fused_one(masked):
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    allowed = (
        torch.tensor([[True] * 5 + [False] * 2, [True] * 7])[:, None, None] if masked else None
    )
    fused = F.scaled_dot_product_attention(q, k, v, allowed)
    torch.testing.assert_close(
        attention.attend_plainly(q, k, v, allowed), fused, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("dtype", "length", "training", "plainly"),
    [
        (torch.bfloat16, 8, True, True),
        (torch.bfloat16, 8, False, False),
        (torch.bfloat16, 1024, True, False),
        (torch.float32, 8, True, False),
    ],
)
def test_the_plain_way_is_taken_where_it_is_faster(monkeypatch, dtype, length, training, plainly):
    taken = []

    def noted(*given):
        taken.append(True)
        return plain(*given)

    plain = attention.attend_plainly
    monkeypatch.setattr(attention, "attend_plainly", noted)
    q, k, v = torch.randn(3, 1, length, 1, 4).to(dtype).unbind(0)
    assert attention.attend(q.detach().requires_grad_(training), k, v).shape == (1, length, 4)
    assert bool(taken) is plainly


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recorded", [True, False])
def test_what_is_masked_is_not_seen(recorded, dtype):
    layer, x = SelfAttention(16, 2).to(dtype), torch.randn(1, 6, 16, dtype=dtype)
    mask = torch.tensor([[True, True, True, True, False, False]])
    other = x.clone()
    other[:, 4:] += 1
    with torch.set_grad_enabled(recorded):
        torch.testing.assert_close(layer(x, mask=mask)[:, :4], layer(other, mask=mask)[:, :4])
        assert not torch.allclose(layer(x)[:, :4], layer(other)[:, :4], atol=1e-3)


def test_qk_norm_forgets_the_length_of_queries_and_keys():
    layer, x = CrossAttention(16, 8, 2), torch.randn(1, 6, 16)
    source, mask = torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    k, v = layer.project(source)
    longer, _ = layer.project(5 * source)
    assert k.shape == v.shape == (1, 3, 2, 8)
    torch.testing.assert_close(k, longer, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(layer(x, k, v, mask), layer(5 * x, k, v, mask), atol=1e-3, rtol=1e-3)


def test_self_attention_without_positions_does_not_care_about_order():
    layer, x = SelfAttention(16, 2, qk_norm=False), torch.randn(1, 6, 16)
    torch.testing.assert_close(layer(x).flip(1), layer(x.flip(1)))
