"""CLIP's eye (arXiv 2103.00020): a vision transformer whose vector of a picture lies where those of texts do."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.towers import clip
from safelight.types import Images

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Config:
    """An eye that sees ``size`` pixels square in patches of ``patch``; the defaults are those of OpenCLIP ViT-H/14."""

    width: int = 1280
    depth: int = 32
    heads: int = 16
    hidden: int = 5120
    activation: Literal["quick_gelu", "gelu"] = "gelu"
    patch: int = 14
    size: int = 224
    projection: int = 1024

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size % self.patch:
            raise BadInput(f"an eye of {self.size} pixels cannot see whole patches of {self.patch}.")

    def build(self) -> "Eye":
        """The eye, freshly initialised."""
        return Eye(self)


class Eye(nn.Module):
    """Images (b, 3, h, w) of any size in [-1, 1] → vectors (b, projection)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        side = config.size // config.patch
        self.patches = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.first = nn.Parameter(0.02 * torch.randn(config.width))  # the token whose state is the picture's
        self.positions = nn.Parameter(0.02 * torch.randn(side * side + 1, config.width))
        self.norm1 = nn.LayerNorm(config.width, eps=1e-5)
        block = clip.Config(config.width, config.depth, config.heads, config.hidden, config.activation)
        self.blocks = nn.ModuleList(clip.Block(block) for _ in range(config.depth))
        self.norm2 = nn.LayerNorm(config.width, eps=1e-5)
        self.projection = nn.Linear(config.width, config.projection, bias=False)

    def forward(self, images: Images) -> Tensor:
        x = seen(images, self.config.size).to(self.first.dtype)
        x = self.patches(x).flatten(2).transpose(1, 2)  # (b, n, width)
        x = torch.cat([self.first.expand(len(x), 1, -1), x], dim=1) + self.positions
        x = self.norm1(x)
        for block in self.blocks:
            x = block(x, None)
        vectors: Tensor = self.projection(self.norm2(x[:, 0]))
        return vectors


def seen(images: Images, size: int) -> Tensor:
    """The middle square of the images, scaled to ``size``, as CLIP was trained to see it: (b, 3, size, size)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    sides = [size * side // short for side in (height, width)]
    scaled = F.interpolate(images.float(), sides, mode="bicubic", antialias=True, align_corners=False)
    top, left = ((side - size) // 2 for side in sides)
    square = scaled[..., top : top + size, left : left + size].clamp(-1, 1)
    mean, deviation = (torch.tensor(one, device=images.device)[:, None, None] for one in (MEAN, DEVIATION))
    return ((square + 1) / 2 - mean) / deviation
