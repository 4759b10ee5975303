"""Group norms that can take their mean and variance from outside, for images that are computed in
tiles."""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from safelight.nn.kernels.compiled import usable
from safelight.nn.kernels.norm import group_sums, scale_shift

Moments: TypeAlias = tuple[Tensor, Tensor]
"""Mean and variance of each group (b, g), in float64."""


class GroupNorm(nn.GroupNorm):
    """The group norm of (b, c, h, w) with the mean and variance of each image, or with ``known``
    ones.

    ``silu`` lets a SiLU follow. ``quick`` lets the compiled kernel do both in one pass where it
    can: not for learning, and for widths that are multiples of 64.
    """

    def __init__(self, groups: int, width: int, eps: float, silu: bool = False) -> None:
        super().__init__(groups, width, eps)
        self.silu, self.quick = silu, False

    def forward(self, x: Tensor, mine: bool = False, known: Moments | None = None) -> Tensor:
        """``mine`` says that ``x`` is not used again, so that the result may be written over it;
        ``known`` are the moments of the images that ``x`` is a part of."""
        if self._in_kernels(x):
            mean, variance = known or moments(self.sums(x))
            weight, bias = self.weight.double(), self.bias.double()
            each = x.shape[1] // self.num_groups
            scale = weight / (variance + self.eps).sqrt().repeat_interleave(each, 1)
            return scale_shift(
                x, scale, bias - mean.repeat_interleave(each, 1) * scale, self.silu, mine
            )
        y = super().forward(x) if known is None else self._normalise(x, known)
        return F.silu(y) if self.silu else y

    def sums(self, x: Tensor) -> Tensor:
        """Count, sum and sum of squares of each group (b, g, 3) in float64: those of parts add up
        to the whole's."""
        count = x[0].numel() // self.num_groups
        if self._in_kernels(x):
            both = group_sums(x, self.num_groups)
        else:
            variance, mean = torch.var_mean(
                x.float(), (2, 3), correction=0
            )  # (b, c), of each channel
            mean = mean.double()
            both = torch.stack([mean, variance.double() + mean.square()], -1)
            both = reduce(both, "b (g c) n -> b g n", "mean", g=self.num_groups) * count
        return F.pad(both, (1, 0), value=count)

    def _in_kernels(self, x: Tensor) -> bool:
        return self.quick and x.shape[1] % 64 == 0 and usable(x, self.weight, self.bias)

    def _normalise(self, x: Tensor, known: Moments) -> Tensor:
        """As batch norm with fixed statistics, whose channels are those of all images."""
        mean, variance = (
            one.float().repeat_interleave(x.shape[1] // self.num_groups) for one in known
        )
        weight, bias = (one.float().repeat(len(x)) for one in (self.weight, self.bias))
        return F.batch_norm(x.flatten(0, 1)[None], mean, variance, weight, bias, eps=self.eps).view(
            x.shape
        )


def moments(sums: Tensor) -> Moments:
    """What ``GroupNorm.sums`` (b, g, 3) come to."""
    count, total, square = sums.unbind(-1)
    mean = total / count
    return mean, (square / count - mean.square()).clamp(min=0)
