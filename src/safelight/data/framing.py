"""From a picture of any size to the square that training sees."""

from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from safelight.errors import BadInput
from safelight.files import digest
from safelight.media.pictures import to_bytes


@dataclass(frozen=True)
class Framing:
    """Scale the short side, cut a square, perhaps mirror it; the same cut for the same (seed, position)."""

    size: int = 128  # of the square, in pixels
    short_side: int = 0  # scale the short side to this first; 0: to ``size``
    crop: Literal["centre", "random"] = "centre"
    mirror: bool = False  # half of the pictures, left for right

    def __post_init__(self) -> None:
        if self.size < 1 or (self.short_side and self.short_side < self.size):
            raise BadInput(
                f"framing: wanted 0 < size ≤ short_side, got size {self.size} of {self.short_side}."
            )

    @property
    def fixed(self) -> bool:
        """True if a picture is framed alike each time, so that its latents can be kept."""
        return self.crop == "centre" and not self.mirror

    def __call__(self, picture: Image.Image, seed: int = 0, position: int = 0) -> Tensor:
        """uint8 (3, size, size)."""
        short = self.short_side or self.size
        scale = short / min(picture.size)
        if scale != 1:
            wide, high = (max(short, round(side * scale)) for side in picture.size)
            picture = picture.resize((wide, high), Image.Resampling.LANCZOS)
        room = (picture.width - self.size, picture.height - self.size)
        draws = _draws(seed, position) if not self.fixed else (0.5, 0.5, 1.0)
        if self.crop == "centre":
            draws = (0.5, 0.5, draws[2])
        left, top = (
            min(side, int(draw * (side + 1))) for side, draw in zip(room, draws[:2], strict=True)
        )
        pixels = to_bytes(picture.crop((left, top, left + self.size, top + self.size)))
        return pixels.flip(-1) if self.mirror and draws[2] < 0.5 else pixels


def _draws(seed: int, position: int) -> tuple[float, float, float]:
    generator = torch.Generator().manual_seed(int(digest([f"framing {seed} {position}"])[:15], 16))
    first, second, third = torch.rand(3, generator=generator).tolist()
    return first, second, third
