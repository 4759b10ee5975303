"""A 3×3 convolution that multiplies less, by Winograd's minimal filtering F(2×2, 3×3) (Lavin &
Gray, arXiv 1509.09308): 16 products for 2×2 numbers instead of 36, and 9 after doubling by
repetition."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from safelight.nn.kernels.compiled import address, library, matrix_units, sizes, usable

PLAIN = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
TWICE = ((1, 0, 0), (1, 1, 1), (0, 0, 1))
"""What a filter is multiplied by from both sides; of a doubled tile one of the four rows meets only
zeros."""


class Convolution3(nn.Module):
    """A 3×3 convolution that keeps the size, or first doubles it by repetition if ``twice``.

    (b, before, h, w) → (b, width, h, w) or (b, width, 2h, 2w). ``quick`` lets the compiled kernel
    do it where it can: not for learning, for widths that are multiples of 16 going in and 64 coming
    out, and not in bf16 where matrix units (AMX) multiply faster than what the kernel saves. The
    weights are those of ``nn.Conv2d``; what the kernel derives from them is no part of the state
    and is made again once they change.
    """

    def __init__(self, before: int, width: int, twice: bool = False) -> None:
        super().__init__()
        plain = nn.Conv2d(before, width, 3)  # begins as it does
        assert plain.bias is not None
        self.weight, self.bias = plain.weight, plain.bias
        self.twice, self.quick = twice, False
        self._derived: tuple[object, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """The convolution of ``x``, and ``add`` (of the result's shape) added to it."""
        width, before = self.weight.shape[:2]
        fits = (
            before % 16 == 0
            and width % 64 == 0
            and not (x.dtype == torch.bfloat16 and matrix_units())
        )
        if self.quick and fits and usable(x, self.weight):
            return convolve(x, *self.derived(), add, self.twice)
        if self.twice:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        y = F.conv2d(x, self.weight, self.bias, padding=1)
        return y if add is None else add + y

    def derived(self) -> tuple[Tensor, Tensor]:
        """Filters as the kernel wants them, and the bias in fp32; of the weights as they are
        now."""
        now = tuple(
            (p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version)
            for p in (self.weight, self.bias)
        )
        if self._derived is None or self._derived[0] != now:
            self._derived = (
                now,
                filters(self.weight.detach(), self.twice),
                self.bias.detach().float().clone(),
            )
        return self._derived[1:]

    def forget(self) -> None:
        """Let go what was derived; it is made again when it is wanted."""
        self._derived = None


def filters(weight: Tensor, twice: bool) -> Tensor:
    """(width, before, 3, 3) transformed: (width / 64, planes, before, 64), in bf16 pairs of
    ``before`` innermost."""
    matrix = torch.tensor(TWICE if twice else PLAIN, dtype=torch.float32, device=weight.device)
    planes = torch.einsum("pi,qj,ocij->pqco", matrix, matrix, weight.float())
    planes = rearrange(planes, "p q c (n o) -> n (p q) c o", o=64)
    if weight.dtype == torch.bfloat16:
        planes = rearrange(planes, "n p (c pair) o -> n p c o pair", pair=2)
    return planes.to(weight.dtype).contiguous()


def convolve(x: Tensor, planes: Tensor, bias: Tensor, add: Tensor | None, twice: bool) -> Tensor:
    """The kernel, with ``planes`` of ``filters`` and ``bias`` (width,) in fp32."""
    kernels = library()
    assert kernels is not None
    layout = torch.channels_last
    x = x.contiguous(memory_format=layout)
    add = None if add is None else add.to(x.dtype).contiguous(memory_format=layout)
    b, before, h, w = x.shape
    shape = (b, len(bias), 2 * h, 2 * w) if twice else (b, len(bias), h, w)
    assert add is None or add.shape == shape
    y = torch.empty(shape, dtype=x.dtype, memory_format=layout)
    half, threads = int(x.dtype == torch.bfloat16), torch.get_num_threads()
    size = sizes(b, h, w, before, len(bias))
    into = (address(planes), address(bias), address(add), address(y))
    kernels.convolution3(address(x), *into, size, int(twice), half, threads)
    return y
