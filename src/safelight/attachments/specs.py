"""What a person attaches to a model, parsed from text as on the command line. No torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from safelight.errors import BadInput

NUMBER = r"-?\d*\.?\d+"


@dataclass(frozen=True)
class LoraSpec:
    """A LoRA file and the scale at which it is merged."""

    file: Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "LoraSpec":
        """Parse ``FILE[:SCALE]``."""
        file, scale = _with_suffix(text, NUMBER)
        return cls(Path(file), float(scale or 1))


@dataclass(frozen=True)
class EmbeddingSpec:
    """A file of textual-inversion embeddings, and the name of one that has none in the file."""

    file: Path
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> "EmbeddingSpec":
        """Parse ``FILE[:NAME]``."""
        file, name = _with_suffix(text, r"\w+")
        return cls(Path(file), name)


@dataclass(frozen=True)
class ControlSpec:
    """A control file (none: the model takes the picture itself), a picture, kind and scale.

    ``kind`` states by name or number what the picture shows, for control that knows several.
    """

    file: Path | None
    picture: Path
    kind: str = ""
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "ControlSpec":
        """Parse ``[FILE]=PICTURE[:KIND][:SCALE]``; BadInput if the picture is missing."""
        file, equals, picture = text.partition("=")
        rest, scale = _with_suffix(picture, NUMBER)
        path, kind = _with_suffix(rest, r"[\w-]+")
        if not path or not equals:
            raise BadInput(
                f"control: wanted FILE=PICTURE or FILE=PICTURE:KIND:SCALE, got {text!r}."
            )
        return cls(Path(file) if file else None, Path(path), kind, float(scale or 1))


@dataclass(frozen=True)
class ImagePromptSpec:
    """An image-prompt file, the pictures (or face vectors) to prompt with, and its scale."""

    file: Path
    pictures: tuple[Path, ...]
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "ImagePromptSpec":
        """Parse ``FILE=PICTURE[,PICTURE…][:SCALE]``; BadInput if file or picture is missing."""
        file, _, rest = text.partition("=")
        pictures, scale = _with_suffix(rest, NUMBER)
        if not file or not pictures:
            raise BadInput(
                f"image-prompt: wanted FILE=PICTURE or FILE=PICTURE:SCALE, got {text!r}."
            )
        paths = tuple(Path(name) for name in pictures.split(","))
        return cls(Path(file), paths, float(scale or 1))


def _with_suffix(text: str, pattern: str) -> tuple[str, str]:
    """The text before its last colon and what follows, if that matches the pattern."""
    match = re.fullmatch(rf"(.+?)(?::({pattern}))?", text)
    return (match[1], match[2] or "") if match else (text, "")
