"""The configuration of this text model. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.nn.text_models.clip.network import Clip


@dataclass(frozen=True)
class Config:
    """An encoder of ``depth`` blocks; the defaults are CLIP ViT-L/14.

    ``projection`` is the width of the space shared with pictures, 0 if the file holds no
    projection. ``temperature``: whether the file holds the contrastive temperature; nothing here
    uses it.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    vocabulary: int = 49_408
    length: int = 77
    projection: int = 0
    temperature: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise BadInput(
                f"a width of {self.width} cannot be divided among {self.heads} heads; "
                "set how many there are."
            )

    def build(self) -> "Clip":
        """The network, freshly initialised."""
        from safelight.nn.text_models.clip.network import Clip

        return Clip(self)
