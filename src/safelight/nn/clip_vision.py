"""The image encoder of CLIP (arXiv 2103.00020): a vision transformer.

Its vectors of pictures lie in one space with those of CLIP's text encoder.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from safelight.errors import BadInput, unknown
from safelight.nn.text_models.clip import network as clip
from safelight.nn.text_models.clip.config import Config as TextConfig
from safelight.types.tensors import Images

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Config:
    """An encoder of ``size`` pixels square in patches of ``patch``; by default OpenCLIP ViT-H/14.

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
                f"an image size of {self.size} pixels is no multiple "
                f"of the patch size {self.patch}."
            )
        if self.activation not in clip.ACTIVATIONS:
            raise unknown("activation of an image encoder:", self.activation, clip.ACTIVATIONS)

    def build(self) -> "ImageEncoder":
        """The network, freshly initialised."""
        return ImageEncoder(self)


class ImageEncoder(nn.Module):
    """Images (b, 3, h, w) of any size in [-1, 1] → vectors (b, projection)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        side = config.size // config.patch
        self.patches = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.class_embedding = nn.Parameter(0.02 * torch.randn(config.width))  # the class token
        self.positions = nn.Parameter(0.02 * torch.randn(side * side + 1, config.width))
        self.norm1 = nn.LayerNorm(config.width, eps=1e-5)
        block = TextConfig(
            config.width, config.depth, config.heads, config.hidden, config.activation
        )
        self.blocks = nn.ModuleList(clip.Block(block) for _ in range(config.depth))
        self.norm2 = nn.LayerNorm(config.width, eps=1e-5)
        self.projection = (
            nn.Linear(config.width, config.projection, bias=False) if config.projection else None
        )

    def forward(self, images: Images) -> Tensor:
        """The vectors of images; BadInput if its file held no projection."""
        if self.projection is None:
            raise BadInput(
                "this image encoder makes no vectors: its file holds no projection; "
                "use a file that does."
            )
        x = self.hidden_states(preprocess(images, self.config.size), len(self.blocks))
        vectors: Tensor = self.projection(self.norm2(x[:, 0]))
        return vectors

    def states(self, images: Images) -> Tensor:
        """The states of class token and patches before the last block, (b, 1 + patches, width)."""
        return self.hidden_states(preprocess(images, self.config.size), len(self.blocks) - 1)

    def null_states(self) -> Tensor:
        """The states of no picture, (1, 1 + patches, width): its normalised pixels are 0."""
        side = self.config.size
        return self.hidden_states(
            self.class_embedding.new_zeros(1, 3, side, side), len(self.blocks) - 1
        )

    def hidden_states(self, pixels: Tensor, depth: int) -> Tensor:
        """Normalised pixels (b, 3, size, size) → the states after ``depth`` blocks."""
        x = (
            self.patches(pixels.to(self.class_embedding.dtype)).flatten(2).transpose(1, 2)
        )  # (b, n, width)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positions
        x = self.norm1(x)
        for block in self.blocks[:depth]:
            x = block(x, None)
        states: Tensor = x
        return states


def preprocess(images: Images, size: int) -> Tensor:
    """The central square of the images, scaled and normalised for CLIP: (b, 3, size, size).

    CLIP was trained on 8-bit pictures that Pillow had resized, so that this is done here too.
    """
    from PIL import Image  # only where a picture is encoded

    height, width = images.shape[-2:]
    short = min(height, width)
    new_width, new_height = (size * side // short for side in (width, height))
    left, top = ((side - size) // 2 for side in (new_width, new_height))
    bits = (
        ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    )  # (b, 3, h, w)
    pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in bits]
    scaled = [
        np.array(picture.resize((new_width, new_height), Image.Resampling.BICUBIC))
        for picture in pictures
    ]
    squares = [
        torch.from_numpy(array[top : top + size, left : left + size].copy()) for array in scaled
    ]
    square = torch.stack(squares).permute(0, 3, 1, 2).to(images.device).float() / 255
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD)
    )
    return (square - mean) / std
