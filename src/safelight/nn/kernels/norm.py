"""Group norm and SiLU in one pass."""

import ctypes

import torch
from torch import Tensor

from safelight.nn.kernels.compiled import address, library, sizes


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, mine: bool) -> Tensor:
    """The kernel, for (b, width, h, w); written over ``x`` if it is ``mine``. Moments are summed in fp32 over 256
    places, then in fp64."""
    kernels = library()
    assert kernels is not None
    x = x.contiguous(memory_format=torch.channels_last)
    out = x if mine else torch.empty_like(x)
    b, width, h, w = x.shape
    scale, shift = weight.float(), bias.float()
    half, threads = int(x.dtype == torch.bfloat16), torch.get_num_threads()
    size, small = sizes(b, h * w, width, groups), ctypes.c_double(eps)
    kernels.group_norm(address(x), address(out), address(scale), address(shift), size, small, int(silu), half, threads)
    return out
