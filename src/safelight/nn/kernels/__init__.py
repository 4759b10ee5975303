"""Compiled on demand, each with an eager twin that gives the same numbers."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Quick(Protocol):
    """A module that lets a compiled kernel compute what it can while ``quick`` is true."""

    quick: bool
