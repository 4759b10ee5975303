"""Softmax attention in bf16, its scores never leaving the cache: about twice as fast as torch's on
a CPU without matrix units, where most of a U-Net's step at 64×64 latents is this."""

import torch
from torch import Tensor

from safelight.nn.kernels.compiled import address, library, matrix_units, sizes, usable


def attends(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel may attend: in bf16, nothing to be learned, keys in multiples of 64, heads
    of even width."""
    fits = q.dtype == torch.bfloat16 and k.shape[1] % 64 == 0 and q.shape[3] % 2 == 0
    return fits and not matrix_units() and usable(q, k, v) and library("attention") is not None


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The kernel, for (b, n, heads, d) on (b, m, heads, d) → (b, n, heads · d). Scores and sums are
    fp32; what the values are weighed by is bf16."""
    kernels = library("attention")
    assert kernels is not None
    q, k, v = (one if one.stride(3) == 1 else one.contiguous() for one in (q, k, v))
    b, n, heads, d = q.shape
    y = torch.empty((b, n, heads, d), dtype=q.dtype)
    size = sizes(b, n, k.shape[1], heads, d)
    strides = sizes(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    kernels.attention(
        address(q), address(k), address(v), address(y), size, strides, torch.get_num_threads()
    )
    return y.flatten(2)
