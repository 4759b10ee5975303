"""The compiled kernels against their eager twins and against fp64; what is derived follows the
weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from safelight.autoencoders.kl.config import Config
from safelight.model import LatentDiffusion
from safelight.nn.attention import attend
from safelight.nn.kernels.attention import attends
from safelight.nn.kernels.compiled import library
from safelight.nn.kernels.convolution import PLAIN, TWICE, Convolution3
from safelight.nn.norms import GroupNorm
from safelight.runtime import prepare

compiled = pytest.mark.usefixtures("kernels")
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture
def kernels():
    if library() is None:
        pytest.skip("the kernels cannot be built here")


def quick(module: nn.Module) -> nn.Module:
    module.quick = True
    return module.requires_grad_(False)


def distance(a: torch.Tensor, truth: torch.Tensor) -> float:
    return ((a.double() - truth).square().mean().sqrt() / truth.square().mean().sqrt()).item()


@pytest.mark.parametrize("twice", [False, True])
def test_the_products_of_a_tile_are_the_convolution(twice):
    """In fp64, without the kernel: y = Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A, eq. 8 of arXiv 1509.09308."""
    filter, small = torch.randn(3, 3, dtype=torch.double), torch.randn(3, 3, dtype=torch.double)
    tile = (
        small.repeat_interleave(2, 0).repeat_interleave(2, 1)[1:5, 1:5]
        if twice
        else torch.randn(4, 4).double()
    )
    seen = small if twice else tile
    g = torch.tensor(TWICE if twice else PLAIN, dtype=torch.double)
    b = (
        [[1, -1, 0], [0, 1, 0], [0, 1, -1]]
        if twice
        else [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
    )
    a = [[1, 1, 0], [0, 1, -1]] if twice else [[1, 1, 1, 0], [0, 1, -1, -1]]
    b, a = torch.tensor(b, dtype=torch.double), torch.tensor(a, dtype=torch.double)
    result = a @ ((g @ filter @ g.T) * (b @ seen @ b.T)) @ a.T
    torch.testing.assert_close(
        result, F.conv2d(tile[None, None], filter[None, None])[0, 0], rtol=0, atol=1e-13
    )


@compiled
@PRECISIONS
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    ("before", "width", "size"), [(16, 64, (7, 9)), (64, 128, (20, 33)), (32, 64, (1, 1))]
)
@torch.no_grad()
def test_the_convolution_equals_its_twin(before, width, size, twice, dtype):
    """fp32 within 1e-5 of the largest value; in bf16 the error against fp64 is at most twice the
    twin's."""
    torch.manual_seed(0)
    convolution = Convolution3(before, width, twice).to(dtype)
    x = torch.randn(2, before, *size).to(dtype)
    y = torch.randn_like(convolution(x))
    plain, fast = convolution(x, y), quick(convolution)(x, y)
    truth = copy.deepcopy(convolution).double()(x.double(), y.double())
    assert distance(fast, truth) < 2 * distance(plain, truth) + 1e-7
    if dtype == torch.float32:
        assert (fast - plain).abs().max() < 1e-5 * plain.abs().max()
    assert torch.equal(convolution(x[1:], y[1:]), fast[1:])  # of the batch only its own
    torch.testing.assert_close(
        convolution(x), fast - y, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.05
    )


@compiled
@PRECISIONS
@pytest.mark.parametrize("silu", [False, True])
@torch.no_grad()
def test_norm_and_silu_equal_their_twin(dtype, silu):
    torch.manual_seed(0)
    norm = GroupNorm(8, 64, 1e-6, silu).to(dtype)
    for p in norm.parameters():
        p.add_(torch.randn_like(p))
    x = (3 * torch.randn(2, 64, 33, 17) + 5).to(dtype)
    plain, fast = norm(x), quick(norm)(x)
    truth = copy.deepcopy(norm).double()(x.double())
    assert distance(fast, truth) <= 1.1 * distance(plain, truth) + 1e-7
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (0.02, 1e-3)
    torch.testing.assert_close(fast, plain, rtol=rtol, atol=atol)
    mine = x.contiguous(memory_format=torch.channels_last)
    kept = mine.clone()
    assert torch.equal(norm(mine), fast)
    assert torch.equal(mine, kept)
    assert torch.equal(norm(mine, mine=True), fast)
    assert norm(mine, mine=True).data_ptr() == mine.data_ptr()


@compiled
@PRECISIONS
@torch.no_grad()
def test_large_and_constant_inputs_stay_finite(dtype):
    norm, convolution = (
        quick(GroupNorm(2, 64, 1e-6, True).to(dtype)),
        quick(Convolution3(64, 64).to(dtype)),
    )
    for x in (
        1e15 * torch.randn(1, 64, 8, 8),
        torch.full((1, 64, 8, 8), 1e4),
        torch.zeros(1, 64, 8, 8),
    ):
        assert norm(x.to(dtype)).isfinite().all()
        assert convolution(x.to(dtype)).isfinite().all()


@compiled
@PRECISIONS
def test_a_prepared_autoencoder_gives_the_plain_ones_pictures(dtype):
    torch.manual_seed(0)
    plain = Config(width=64, multipliers=(1, 2, 2), blocks=1).build().to(dtype)
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    precision = "fp32" if dtype == torch.float32 else "bf16"
    fast = prepare(LatentDiffusion(autoencoder=copy.deepcopy(plain)), "cpu", precision).autoencoder
    images, latents = torch.rand(2, 3, 36, 44, dtype=dtype), torch.randn(2, 4, 9, 11, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    with torch.no_grad():
        for ours, theirs in (
            (fast.decode(latents), plain.decode(latents)),
            (fast.encode(images).mean, plain.encode(images).mean),
        ):
            assert not torch.equal(ours, theirs)  # so the kernels were used
            assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()
    assert list(fast.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in fast.state_dict().items())


@compiled
def test_what_is_derived_follows_the_weights_and_never_meets_gradients():
    torch.manual_seed(0)
    convolution, x = quick(Convolution3(64, 64)), torch.randn(1, 64, 6, 6)
    with torch.inference_mode():
        before = convolution(x)
        assert torch.equal(copy.deepcopy(convolution)(x), before)
    convolution.weight.mul_(2)
    convolution.bias.zero_()
    with torch.no_grad():
        torch.testing.assert_close(
            convolution(x), F.conv2d(x, convolution.weight, padding=1), rtol=0, atol=1e-5
        )
        assert convolution.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    convolution.float().requires_grad_(True)
    assert convolution(x).requires_grad
    norm = quick(GroupNorm(2, 64, 1e-6, True)).requires_grad_(True)
    assert norm(x, mine=True).requires_grad


def test_they_begin_as_torchs_own():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 16, 3)
    torch.manual_seed(0)
    ours = Convolution3(8, 16)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True)
    )


@compiled
@torch.no_grad()
def test_threads_change_nothing(monkeypatch):
    torch.manual_seed(0)
    norm, convolution, x = (
        quick(GroupNorm(2, 64, 1e-6, True)),
        quick(Convolution3(64, 128)),
        torch.randn(2, 64, 30, 30),
    )
    alone = convolution(norm(x))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(convolution(norm(x)), alone)


@compiled
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "width"),
    [(100, 64, 3, 40), (7, 192, 2, 2), (64, 256, 1, 160), (50, 128, 2, 66)],
)
@torch.no_grad()
def test_attention_equals_its_twin(queries, keys, heads, width, monkeypatch):
    torch.manual_seed(0)
    q = 3 * torch.randn(2, queries, 2, heads, width).bfloat16()[:, :, 1]
    k, v = torch.randn(2, keys, 2, heads, width).bfloat16().unbind(2)
    assert attends(q, k, v)
    exact = attend(q.double(), k.double(), v.double())
    found = attend(q, k, v, quick=True)
    assert distance(found, exact) < max(1.1 * distance(attend(q, k, v), exact), 0.004)
    assert torch.equal(attend(q[1:], k[1:], v[1:], quick=True), found[1:])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(attend(q, k, v, quick=True), found)


@compiled
@torch.no_grad()
def test_attention_stays_finite_with_large_scores_and_is_left_to_torch_where_it_must():
    q, k, v = 100 * torch.randn(3, 1, 128, 2, 8).bfloat16()
    found = attend(q, k, v, quick=True)
    assert found.isfinite().all()
    assert distance(found, attend(q.double(), k.double(), v.double())) < 0.02
    assert not attends(q, k[:, :63], v[:, :63])
    assert not attends(q.float(), k.float(), v.float())
    assert not attends(q[..., :7], k[..., :7], v[..., :7])


@compiled
def test_kernels_are_built_once_and_done_without(tmp_path, monkeypatch):
    build = library.__wrapped__
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build() is None
    monkeypatch.setenv("CXX", "false")  # one that fails
    assert build() is None
    assert not list((tmp_path / "kernels").glob("*.so"))
    monkeypatch.delenv("CXX")
    assert build() is not None
    monkeypatch.setenv("CXX", "false")
    assert build() is not None
