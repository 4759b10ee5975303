"""The configuration of this text model. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.nn.text_models.t5.network import T5


@dataclass(frozen=True)
class Config:
    """An encoder of ``depth`` blocks; the defaults are T5-XXL. ``head_width``: of one head.

    Distances fall into ``buckets``, half of them for each direction; all beyond ``max_distance``
    share one.
    """

    length: ClassVar[int] = 0
    projection: ClassVar[int] = 0

    width: int = 4096
    depth: int = 24
    heads: int = 64
    head_width: int = 64
    hidden: int = 10_240
    vocabulary: int = 32_128
    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        if (
            min(self.width, self.depth, self.heads, self.head_width, self.hidden, self.vocabulary)
            < 1
            or self.buckets < 4
        ):
            raise BadInput(
                f"a T5 encoder needs at least 1 of everything and 4 buckets, got {self}."
            )

    def build(self) -> "T5":
        """The encoder, freshly initialised."""
        from safelight.nn.text_models.t5.network import T5

        return T5(self)
