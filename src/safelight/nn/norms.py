"""Group norms that can be told their statistics, for images that are seen in parts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from safelight.nn.kernels.compiled import usable
from safelight.nn.kernels.norm import group_norm

Box = tuple[float, float, float, float]
"""A part of an image as fractions of its sides: top, bottom, left, right."""


class GroupNorm(nn.GroupNorm):
    """The group norm of (b, c, h, w), by the statistics of each image, or by those of ``shared`` while it is set.

    ``silu`` lets a SiLU follow. ``quick`` lets the compiled kernel do both in one pass where it can: not for learning,
    and for widths that are multiples of 64.
    """

    shared: "Statistics | None" = None

    def __init__(self, groups: int, width: int, eps: float, silu: bool = False) -> None:
        super().__init__(groups, width, eps)
        self.silu, self.quick = silu, False

    def forward(self, x: Tensor, mine: bool = False) -> Tensor:
        """``mine`` says that ``x`` is not used again, so that the result may be written over it."""
        if self.shared is None and self.quick and x.shape[1] % 64 == 0 and usable(x, self.weight, self.bias):
            return group_norm(x, self.num_groups, self.weight, self.bias, self.eps, self.silu, mine)
        y = super().forward(x) if self.shared is None else self.shared.apply(self, x)
        return F.silu(y) if self.silu else y


class Statistics:
    """Mean and variance of each norm's groups over one image of which parts are seen, one batch after another.

    A norm that is not known yet takes those of the part that it sees. ``gather`` adds up, over the parts that follow,
    what ``settle`` then makes known. A norm depends on those before it, so that each
    round of all parts makes one more norm exact and brings the others nearer.
    """

    def __init__(self) -> None:
        self._known: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._sums: dict[nn.Module, Tensor] = {}
        self._part: Box | None = None

    @contextmanager
    def used(self, norms: Iterable[GroupNorm]) -> Iterator[None]:
        """Within the block these norms take their statistics from here."""
        theirs = list(norms)
        for norm in theirs:
            norm.shared = self
        try:
            yield
        finally:
            for norm in theirs:
                norm.shared = None

    def gather(self, part: Box | None) -> None:
        """Add up what lies in this part of the images that follow; None: nothing."""
        self._part = part

    def settle(self) -> None:
        """Make known what was gathered."""
        self._known |= {norm: _moments(sums) for norm, sums in self._sums.items()}
        self._sums, self._part = {}, None

    def apply(self, norm: GroupNorm, x: Tensor) -> Tensor:
        """``x`` (b, c, h, w) normalised by what is known of the whole image."""
        known = self._known.get(norm) or _moments(_sums(x, norm.num_groups))
        if self._part is not None:
            self._sums[norm] = self._sums.get(norm, 0) + _sums(_cut(x, self._part), norm.num_groups)
        mean, variance = (one.repeat_interleave(x.shape[1] // norm.num_groups) for one in known)
        weight, bias = norm.weight.float(), norm.bias.float()
        return F.batch_norm(x, mean, variance, weight, bias, eps=norm.eps)


def _cut(x: Tensor, part: Box) -> Tensor:
    height, width = x.shape[-2:]
    top, bottom, left, right = (
        round(share * side) for share, side in zip(part, (height, height, width, width), strict=True)
    )
    return x[..., top:bottom, left:right]


def _sums(x: Tensor, groups: int) -> Tensor:
    """Count, sum and sum of squares of each group, in float64 (3, g)."""
    grouped = rearrange(x.float(), "b (g c) h w -> g (b c h w)", g=groups)
    variance, mean = torch.var_mean(grouped, 1, correction=0)
    count, mean = torch.full_like(mean, grouped.shape[1]).double(), mean.double()
    return torch.stack([count, count * mean, count * (variance.double() + mean.square())])


def _moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    count, total, square = sums
    mean = total / count
    return mean.float(), (square / count - mean.square()).clamp(min=0).float()
