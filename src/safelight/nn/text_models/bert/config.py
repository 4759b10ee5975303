"""The configuration of this text model. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.nn.text_models.bert.network import Bert


@dataclass(frozen=True)
class Config:
    """``depth`` blocks over at most ``length`` tokens; the defaults are the text-to-image model.

    ``head_width`` is the width of one head. ``logits``: whether the file holds the output layer
    over tokens; nothing here uses it.
    """

    projection: ClassVar[int] = 0

    width: int = 1280
    depth: int = 32
    heads: int = 8
    head_width: int = 64
    hidden: int = 5120
    vocabulary: int = 30_522
    length: int = 77
    logits: bool = True

    def __post_init__(self) -> None:
        if (
            min(
                self.width,
                self.depth,
                self.heads,
                self.head_width,
                self.hidden,
                self.vocabulary,
                self.length,
            )
            < 1
        ):
            raise BadInput(f"this text encoder needs at least 1 of everything, got {self}.")

    def build(self) -> "Bert":
        """The network, freshly initialised."""
        from safelight.nn.text_models.bert.network import Bert

        return Bert(self)
