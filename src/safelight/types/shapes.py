"""The shapes of tensors, as plain tuples: no torch here, so that files can be described without
it."""

from collections.abc import Mapping
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]

Shapes: TypeAlias = Mapping[str, Shape]
"""The names and shapes of the tensors of a file, from its header alone."""
