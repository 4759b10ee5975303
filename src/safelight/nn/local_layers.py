"""Layers with a small receptive field, described one by one, so that a large image can be computed
in tiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from safelight.nn.norms import GroupNorm, Moments
from safelight.types.networks import Encoding
from safelight.types.tensors import Latents

Maps: TypeAlias = tuple[Tensor, ...]
"""The feature maps between two layers: (b, c, h, w) each, all of the same height and width."""


@dataclass(frozen=True)
class LocalLayer:
    """A layer whose output at a position depends only on inputs at most ``radius`` positions away.

    Its output maps have ``up`` / ``down`` times the height and width of its input maps. ``radius``
    is counted in input positions, and a tile of the input begins at a multiple of ``down``. If the
    layer applies a group norm to its last input map, ``norm`` is that norm, and ``run`` takes its
    mean and variance over the whole image as a second argument, so that a tile is normalised as the
    whole image is. ``part`` is the module that holds the weights.
    """

    part: nn.Module
    run: Callable[[Maps, Moments | None], Maps]
    radius: int
    up: int = 1
    down: int = 1
    norm: GroupNorm | None = None


@runtime_checkable
class Tileable(Protocol):
    """An autoencoder that can run in tiles: encoder and decoder each consist of a global part,
    which attends to the whole image, and of local layers.

    ``encode`` runs the layers of ``encode_local``, then ``encode_global``; ``decode`` runs
    ``decode_global``, then the layers of ``decode_local``. The features between the two parts are
    (b, d, h/n, w/n), where n divides the autoencoder's factor.
    """

    def encode_local(self) -> Sequence[LocalLayer]: ...

    def encode_global(self, features: Tensor) -> Encoding: ...

    def decode_global(self, latents: Latents) -> Tensor: ...

    def decode_local(self) -> Sequence[LocalLayer]: ...


def global_span(modules: nn.Sequential, is_global: Callable[[nn.Module], bool]) -> tuple[int, int]:
    """The index of the first global module, and the index after the last one; (len(modules), 0) if
    there is none."""
    places = [number for number, module in enumerate(modules) if is_global(module)]
    return (places[0], places[-1] + 1) if places else (len(modules), 0)


def layer(part: nn.Module, radius: int, up: int = 1, down: int = 1) -> LocalLayer:
    """The description of a module that takes one map and has no group norm."""
    return LocalLayer(part, lambda maps, _: (part(maps[-1]),), radius, up, down)
