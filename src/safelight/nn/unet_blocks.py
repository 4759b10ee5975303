"""The residual block of U-Nets with its time embedding (Ho et al., arXiv 2006.11239; sizes and
modulation of Dhariwal & Nichol, arXiv 2105.05233)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.nn.kernels.convolution import Convolution3
from safelight.nn.norms import GroupNorm

Resize = Literal["", "down", "up"]


class Residual(nn.Module):
    """Norm, SiLU, convolution, the embedding, and norm, SiLU, convolution again, added to a skip
    connection that changes the width where it must.

    (b, before, h, w) and the embedding (b, embedding_width) → (b, width, h, w), or half or twice
    the size by ``resize``: by means of 2×2, or by repetition, behind the first SiLU. ``modulated``:
    the embedding scales and shifts the second norm; else it is added before that norm.
    """

    def __init__(
        self,
        before: int,
        width: int,
        embedding_width: int,
        groups: int,
        eps: float,
        modulated: bool = False,
        resize: Resize = "",
    ) -> None:
        super().__init__()
        self.resize, self.modulated = resize, modulated
        self.norm1 = GroupNorm(groups, before, eps, silu=True)
        self.conv1 = Convolution3(before, width, twice=resize == "up")
        self.time = nn.Linear(embedding_width, 2 * width if modulated else width)
        self.norm2 = GroupNorm(groups, width, eps, silu=not modulated)
        self.conv2 = Convolution3(width, width)
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        y, projected = self.norm1(x), self.time(emb)[:, :, None, None]
        if self.resize == "down":
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        elif self.resize == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        y = self.conv1(y)
        if self.modulated:
            scale, shift = projected.chunk(2, dim=1)
            y = F.silu(torch.addcmul(shift, self.norm2(y, mine=True), 1 + scale))
        else:
            y = self.norm2(y + projected, mine=True)
        return self.conv2(y, self.skip(x))  # type: ignore[no-any-return]


class Down(nn.Module):
    """Half the size by a strided convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]
