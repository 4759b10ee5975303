"""The output of a run: decoded values of a medium, which become what people open."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from safelight.errors import unknown
from safelight.media.pictures import to_pictures


@dataclass(frozen=True, eq=False)
class Output:
    """One decoded sample: ``values`` (channels, *space) in [-1, 1], and the kind of its medium."""

    values: Tensor
    medium: str = "picture"

    def to_medium(self) -> Any:
        """The values in their medium, such as a PIL image; BadInput for an unknown medium."""
        if self.medium not in CONVERTERS:
            raise unknown("medium", self.medium, CONVERTERS)
        return CONVERTERS[self.medium](self.values)


CONVERTERS: Mapping[str, Callable[[Tensor], Any]] = {
    "picture": lambda values: to_pictures(values[None])[0],
}
"""How the values of each medium become what people open."""
