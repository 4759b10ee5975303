"""Picture files by their headers alone: what they are, and the recipe inside a PNG. No torch."""

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from safelight import old_names
from safelight.errors import BadInput

MAX_PIXELS = 100_000_000
"""Pictures larger than this are refused before they are decoded."""

RECIPE = "safelight"
"""The name of the text chunk of a PNG that holds its recipe."""


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


def read_recipe(path: Path) -> dict[str, Any] | None:
    """The recipe inside a PNG that Safelight wrote, else None; no pixel is decoded.

    BadInput if the file is not a picture.
    """
    with opened(path, path.name) as picture:
        text = picture.info.get(RECIPE)
    try:
        recipe = json.loads(text) if isinstance(text, str) else None
    except json.JSONDecodeError:
        return None
    return old_names.TABLE.recipe(recipe) if isinstance(recipe, dict) else None
