"""Group norm and SiLU in one pass."""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.nn.kernels.compiled import address, library, sizes, usable


class NormSiLU(nn.Module):
    """``silu(group_norm(x))`` of (b, width, h, w); ``quick`` lets the compiled kernel do it where it can:
    not for learning, and for widths that are multiples of 64."""

    def __init__(self, groups: int, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.groups, self.eps, self.quick = groups, eps, False
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, mine: bool = False) -> Tensor:
        """``mine`` says that ``x`` is not used again, so that the result may be written over it."""
        if not (self.quick and x.shape[1] % 64 == 0 and usable(x, self.weight)):
            return F.silu(F.group_norm(x, self.groups, self.weight, self.bias, self.eps))
        x = x.contiguous(memory_format=torch.channels_last)
        return norm_silu(x, self.groups, self.weight, self.bias, self.eps, x if mine else torch.empty_like(x))


def norm_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> Tensor:
    """The kernel: channels-last ``x`` and ``out``, which may be ``x``. Moments are summed in fp32 over 256 places,
    then in fp64."""
    kernels = library()
    assert kernels is not None
    b, width, h, w = x.shape
    scale, shift = weight.float(), bias.float()
    half, threads = int(x.dtype == torch.bfloat16), torch.get_num_threads()
    shape, small = sizes(b, h * w, width, groups), ctypes.c_double(eps)
    kernels.group_norm(address(x), address(out), address(scale), address(shift), shape, small, 1, half, threads)
    return out
