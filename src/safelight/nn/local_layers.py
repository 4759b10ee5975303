"""Layers of which each place sees those near it, described one by one, so that a large image can be
seen in parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from safelight.nn.norms import GroupNorm, Moments
from safelight.types.networks import Encoding
from safelight.types.tensors import Latents

Maps: TypeAlias = tuple[Tensor, ...]
"""What one layer hands the next: maps (b, c, h, w) of the same sides."""


@dataclass(frozen=True)
class LocalLayer:
    """Maps to maps of ``up`` / ``down`` times their sides, of which each place sees those up to
    ``radius`` away.

    ``radius`` is in places of what goes in; a part of the maps begins at a multiple of ``down``.
    ``norm`` is a group norm of the last map: its moments are those of the whole image, which
    ``run`` is told. ``part`` holds the weights.
    """

    part: nn.Module
    run: Callable[[Maps, Moments | None], Maps]
    radius: int
    up: int = 1
    down: int = 1
    norm: GroupNorm | None = None


@runtime_checkable
class Tileable(Protocol):
    """An autoencoder that can be carried out in tiles: each way has a part that looks at all places
    at once and layers that look at near ones.

    ``encode`` is ``encode_global`` of what ``encode_local`` makes of images, ``decode`` is what
    ``decode_local`` makes of ``decode_global(latents)``. In between are features (b, d, h/n, w/n),
    where n divides the factor.
    """

    def encode_local(self) -> Sequence[LocalLayer]: ...

    def encode_global(self, features: Tensor) -> Encoding: ...

    def decode_global(self, latents: Latents) -> Tensor: ...

    def decode_local(self) -> Sequence[LocalLayer]: ...


def global_span(modules: nn.Sequential, is_global: Callable[[nn.Module], bool]) -> tuple[int, int]:
    """Where the first module that sees all places begins and where the last one ends; (all, 0) if
    none does."""
    places = [number for number, module in enumerate(modules) if is_global(module)]
    return (places[0], places[-1] + 1) if places else (len(modules), 0)


def layer(part: nn.Module, radius: int, up: int = 1, down: int = 1) -> LocalLayer:
    """A module of one map without group norms."""
    return LocalLayer(part, lambda maps, _: (part(maps[-1]),), radius, up, down)
