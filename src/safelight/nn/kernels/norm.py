"""Group norm and SiLU: one pass for the sums, one for the rest."""

import torch
from torch import Tensor

from safelight.nn.kernels.compiled import address, library, sizes


def group_sums(x: Tensor, groups: int) -> Tensor:
    """Sum and sum of squares of each group of (b, width, h, w): (b, groups, 2) in float64. They are
    summed in fp32 over 256 places, then in fp64."""
    kernels = library()
    assert kernels is not None
    x = x.contiguous(memory_format=torch.channels_last)
    b, width, h, w = x.shape
    sums = torch.empty(b, groups, 2, dtype=torch.float64)
    half, threads = int(x.dtype == torch.bfloat16), torch.get_num_threads()
    kernels.group_sums(address(x), address(sums), sizes(b, h * w, width, groups), half, threads)
    return sums


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor, silu: bool, mine: bool) -> Tensor:
    """``x`` (b, width, h, w) times ``scale`` and plus ``shift`` (b, width), and SiLU; written over
    ``x`` if it is ``mine``."""
    kernels = library()
    assert kernels is not None
    x = x.contiguous(memory_format=torch.channels_last)
    out = x if mine else torch.empty_like(x)
    b, width, h, w = x.shape
    scale, shift = scale.float().contiguous(), shift.float().contiguous()
    half, threads = int(x.dtype == torch.bfloat16), torch.get_num_threads()
    size = sizes(b, h * w, width)
    kernels.scale_shift(
        address(x), address(out), address(scale), address(shift), size, int(silu), half, threads
    )
    return out
