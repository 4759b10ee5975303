"""Layers of which each place sees those near it, described one by one, so that a large image can be seen in parts."""

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
class Layer:
    """Maps to maps of ``up`` / ``down`` times their sides, of which each place sees those up to ``reach`` away.

    ``reach`` is in places of what goes in; a part of the maps begins at a multiple of ``down``. ``norm`` is a group
    norm of the last map: its moments are those of the whole image, which ``run`` is told. ``part`` holds the weights.
    """

    part: nn.Module
    run: Callable[[Maps, Moments | None], Maps]
    reach: int
    up: int = 1
    down: int = 1
    norm: GroupNorm | None = None


@runtime_checkable
class Divided(Protocol):
    """An autoencoder that can be carried out in tiles: each way has a part that looks at all places at once and layers
    that look at near ones.

    ``encode`` is ``encode_far`` of what ``encode_near`` makes of images, ``decode`` is what ``decode_near`` makes of
    ``decode_far(latents)``. In between are features (b, d, h/n, w/n), where n divides the factor.
    """

    def encode_near(self) -> Sequence[Layer]: ...

    def encode_far(self, features: Tensor) -> Encoding: ...

    def decode_far(self, latents: Latents) -> Tensor: ...

    def decode_near(self) -> Sequence[Layer]: ...


def far(modules: nn.Sequential, sees_all: Callable[[nn.Module], bool]) -> tuple[int, int]:
    """Where the first module that sees all places begins and where the last one ends; (all, 0) if none does."""
    places = [number for number, module in enumerate(modules) if sees_all(module)]
    return (places[0], places[-1] + 1) if places else (len(modules), 0)


def layer(part: nn.Module, reach: int, up: int = 1, down: int = 1) -> Layer:
    """A module of one map without group norms."""
    return Layer(part, lambda maps, _: (part(maps[-1]),), reach, up, down)
