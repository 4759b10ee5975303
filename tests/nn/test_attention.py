import pytest
import torch

from safelight.nn.attention import CrossAttention, SelfAttention, attend


@pytest.mark.parametrize("masked", [True, False])
def test_training_on_a_cpu_gives_the_numbers_of_the_fused_kernel(masked):
    q, k, v = torch.randn(3, 2, 7, 4, 8).unbind()
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4]) if masked else None
    fused = attend(q, k, v, mask)
    plain = attend(q.clone().requires_grad_(), k, v, mask)
    assert plain.requires_grad
    assert not fused.requires_grad
    torch.testing.assert_close(plain.detach(), fused, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("recorded", [True, False])
def test_what_is_masked_is_not_seen(recorded):
    layer, x = SelfAttention(16, 2), torch.randn(1, 6, 16)
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
