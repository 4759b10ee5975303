"""CLIP's eye (arXiv 2103.00020): a vision transformer whose vector of a picture lies where those of texts do."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from safelight.errors import BadInput, unknown
from safelight.nn.text_models import clip
from safelight.types.tensors import Images

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Config:
    """An eye that sees ``size`` pixels square in patches of ``patch``; the defaults are those of OpenCLIP ViT-H/14.

    ``projection``: the width of its vectors, 0 if it makes none.
    """

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
            raise BadInput(
                f"an eye of {self.size} pixels cannot see whole patches of {self.patch}."
            )
        if self.activation not in clip.ACTIVATIONS:
            raise unknown("activation of an eye:", self.activation, clip.ACTIVATIONS)

    def build(self) -> "ImageEncoder":
        """The eye, freshly initialised."""
        return ImageEncoder(self)


class ImageEncoder(nn.Module):
    """Images (b, 3, h, w) of any size in [-1, 1] → vectors (b, projection); ``states`` gives what lies before them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        side = config.size // config.patch
        self.patches = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.first = nn.Parameter(
            0.02 * torch.randn(config.width)
        )  # the token whose state is the picture's
        self.positions = nn.Parameter(0.02 * torch.randn(side * side + 1, config.width))
        self.norm1 = nn.LayerNorm(config.width, eps=1e-5)
        block = clip.Config(
            config.width, config.depth, config.heads, config.hidden, config.activation
        )
        self.blocks = nn.ModuleList(clip.Block(block) for _ in range(config.depth))
        self.norm2 = nn.LayerNorm(config.width, eps=1e-5)
        self.projection = (
            nn.Linear(config.width, config.projection, bias=False) if config.projection else None
        )

    def forward(self, images: Images) -> Tensor:
        """BadInput if its file held no projection into vectors."""
        if self.projection is None:
            raise BadInput(
                "this image encoder makes no vectors: its file holds no projection; take one that does."
            )
        x = self.walk(seen(images, self.config.size), len(self.blocks))
        vectors: Tensor = self.projection(self.norm2(x[:, 0]))
        return vectors

    def states(self, images: Images) -> Tensor:
        """The states of the picture and of its patches before the last block, (b, 1 + patches, width)."""
        return self.walk(seen(images, self.config.size), len(self.blocks) - 1)

    def blank(self) -> Tensor:
        """The states of no picture, (1, 1 + patches, width): of zeros where the pixels would be, already normed."""
        side = self.config.size
        return self.walk(self.first.new_zeros(1, 3, side, side), len(self.blocks) - 1)

    def walk(self, pixels: Tensor, depth: int) -> Tensor:
        """Normed pixels (b, 3, size, size) → the states after ``depth`` blocks."""
        x = self.patches(pixels.to(self.first.dtype)).flatten(2).transpose(1, 2)  # (b, n, width)
        x = torch.cat([self.first.expand(len(x), 1, -1), x], dim=1) + self.positions
        x = self.norm1(x)
        for block in self.blocks[:depth]:
            x = block(x, None)
        states: Tensor = x
        return states


def seen(images: Images, size: int) -> Tensor:
    """The middle square of the images, scaled to ``size``, as CLIP was trained to see it: (b, 3, size, size).

    It was shown pictures of 8 bits that Pillow had scaled: whoever scales otherwise shows another picture.
    """
    from PIL import Image  # not for models that see nothing

    height, width = images.shape[-2:]
    short = min(height, width)
    wide, high = (size * side // short for side in (width, height))
    left, top = ((side - size) // 2 for side in (wide, high))
    bits = (
        ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    )  # (b, 3, h, w)
    pictures = [Image.fromarray(one.permute(1, 2, 0).contiguous().numpy()) for one in bits]
    scaled = [np.array(one.resize((wide, high), Image.Resampling.BICUBIC)) for one in pictures]
    squares = [torch.from_numpy(one[top : top + size, left : left + size].copy()) for one in scaled]
    square = torch.stack(squares).permute(0, 3, 1, 2).to(images.device).float() / 255
    mean, deviation = (
        torch.tensor(one, device=images.device)[:, None, None] for one in (MEAN, DEVIATION)
    )
    return (square - mean) / deviation
