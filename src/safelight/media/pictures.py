"""Pictures: files and PIL images ⇄ tensors in [-1, 1], and the recipe stored inside a PNG."""

import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from safelight import old_names
from safelight.errors import BadInput
from safelight.files import writing
from safelight.types.tensors import Images

MAX_PIXELS = 100_000_000
"""Pictures larger than this are refused before they are decoded."""

_RECIPE = "safelight"


def read_picture(
    data: bytes | Path, name: str = "picture", transparent: bool = False
) -> Image.Image:
    """A decoded picture, upright as its EXIF says, in RGB on white or, ``transparent``, in RGBA.

    BadInput if it is not a picture.
    """
    with opened(data, name) as picture:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return upright.convert("RGBA") if transparent else on_white(upright)


@contextmanager
def opened(data: bytes | Path, name: str) -> Iterator[Image.Image]:
    """The picture with its header read and its pixels not yet decoded; any failure is BadInput."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a picture that is too large is refused below
            opened = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
        with opened as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width}×{picture.height}"
                raise BadInput(
                    f"{name}: {size} pixels are too many; at most {MAX_PIXELS:,} are read."
                )
            yield picture
    except BadInput:
        raise
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise BadInput(f"{name}: not a picture that can be read ({error}).") from None


def on_white(picture: Image.Image) -> Image.Image:
    """The picture in RGB, composited on white where it is transparent."""
    if picture.mode == "F" and not np.isfinite(np.asarray(picture)).all():
        raise ValueError("it has pixels that are NaN or infinite")
    if picture.mode.startswith("I;16"):  # 16 bits of grey, which converting would clip at 255
        picture = picture.point(lambda value: value / 256, "L")
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def to_bytes(picture: Image.Image, mode: str = "RGB") -> Tensor:
    """A picture as uint8 (3, h, w), or with as many channels as PIL's ``mode`` has."""
    flat = torch.frombuffer(bytearray(picture.convert(mode).tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, -1).permute(2, 0, 1)


def to_images(pictures: Sequence[Image.Image]) -> Images:
    """Pictures of one size as float32 (b, 3, h, w) in [-1, 1]."""
    return normalised(torch.stack([to_bytes(picture) for picture in pictures]))


def normalised(pixels: Tensor) -> Images:
    """Pixels in uint8 as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_pictures(images: Images) -> list[Image.Image]:
    """Images in [-1, 1] as 8-bit pictures, rounded; values outside are clamped."""
    rounded = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in rounded]


def write_png(picture: Image.Image, path: Path, recipe: Mapping[str, Any]) -> None:
    """Save a PNG with its recipe as JSON in a text chunk named ``safelight``."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(_RECIPE, json.dumps(recipe, ensure_ascii=False).encode(errors="replace").decode())
    with writing(path) as aside:
        picture.save(aside, format="PNG", pnginfo=info)


def read_recipe(path: Path) -> dict[str, Any] | None:
    """The recipe inside a PNG that Safelight wrote, else None; no pixel is decoded.

    BadInput if the file is not a picture.
    """
    with opened(path, path.name) as picture:
        text = picture.info.get(_RECIPE)
    try:
        recipe = json.loads(text) if isinstance(text, str) else None
    except json.JSONDecodeError:
        return None
    return old_names.TABLE.recipe(recipe) if isinstance(recipe, dict) else None


def sheet(rows: Sequence[Sequence[Image.Image]], gap: int = 2) -> Image.Image:
    """Rows of pictures on one white sheet; every cell has the size of the largest picture."""
    width = max(picture.width for row in rows for picture in row)
    height = max(picture.height for row in rows for picture in row)
    columns = max(len(row) for row in rows)
    size = (columns * (width + gap) - gap, len(rows) * (height + gap) - gap)
    page = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            page.paste(picture, (x * (width + gap), y * (height + gap)))
    return page
