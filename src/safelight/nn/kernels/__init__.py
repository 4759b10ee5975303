"""Compiled on demand, each with an eager twin that gives the same numbers."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Quick(Protocol):
    """A module of which a compiled kernel may do what it can, once it is told to be ``quick``."""

    quick: bool
