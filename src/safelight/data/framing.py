"""Cropping and resizing pictures of any size to the squares that training sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from safelight.data.examples import Source
from safelight.errors import BadInput
from safelight.files import digest
from safelight.media.pictures import normalised, read_picture, to_bytes
from safelight.types.tensors import Images


@dataclass(frozen=True)
class Framing:
    """Resize, crop to a square and perhaps mirror; deterministic in (seed, position)."""

    size: int = 128  # of the square, in pixels
    short_side: int = 0  # of the picture after resizing, in pixels; 0: ``size``
    crop: Literal["centre", "random"] = "centre"
    mirror: bool = False  # flip half of the pictures horizontally

    def __post_init__(self) -> None:
        if self.size < 1 or (self.short_side and self.short_side < self.size):
            raise BadInput(
                "framing: wanted 0 < size ≤ short_side, "
                f"got size {self.size} and short_side {self.short_side}."
            )

    @property
    def fixed(self) -> bool:
        """Whether a picture is framed the same way each time, so that its latents can be cached."""
        return self.crop == "centre" and not self.mirror

    def __call__(self, picture: Image.Image, seed: int = 0, position: int = 0) -> Tensor:
        """The square as uint8 (3, size, size)."""
        short = self.short_side or self.size
        scale = short / min(picture.size)
        if scale != 1:
            width, height = (max(short, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        margins = (picture.width - self.size, picture.height - self.size)
        draws = _draws(seed, position) if not self.fixed else (0.5, 0.5, 1.0)
        if self.crop == "centre":
            draws = (0.5, 0.5, draws[2])
        left, top = (
            min(margin, int(draw * (margin + 1)))
            for margin, draw in zip(margins, draws[:2], strict=True)
        )
        pixels = to_bytes(picture.crop((left, top, left + self.size, top + self.size)))
        return pixels.flip(-1) if self.mirror and draws[2] < 0.5 else pixels


def framed(
    source: Source,
    indices: Sequence[int],
    framing: Framing,
    seed: int = 0,
    positions: Sequence[int] = (),
) -> Images:
    """Pictures of a source as float32 (b, 3, size, size) in [-1, 1].

    Without ``positions``, which decide random crops, the framing must be ``fixed``.
    """
    squares = [
        framing(read_picture(source[index].picture), seed, position)
        for index, position in zip(indices, positions or [0] * len(indices), strict=True)
    ]
    return normalised(torch.stack(squares))


def _draws(seed: int, position: int) -> tuple[float, float, float]:
    generator = torch.Generator().manual_seed(int(digest([f"framing {seed} {position}"])[:15], 16))
    first, second, third = torch.rand(3, generator=generator).tolist()
    return first, second, third
