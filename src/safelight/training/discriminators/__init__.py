"""Discriminators, each in a file of its own."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from safelight.types.tensors import Images

Mean = Callable[[Tensor], Tensor]
"""The mean of a tensor over the processes of a run."""


class Discriminator(Protocol):
    """Images to logits (b, …), above 0 for what looks real. ``min_size`` is the smallest side."""

    min_size: int

    def __call__(self, images: Images) -> Tensor: ...


class BuildsDiscriminator(Protocol):
    """The configuration of a discriminator; it averages statistics of a batch by ``mean``."""

    def build(self, mean: Mean) -> Discriminator: ...
