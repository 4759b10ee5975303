"""One file a discriminator; what each of them is."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from safelight.types.tensors import Images

Mean = Callable[[Tensor], Tensor]
"""The mean of a tensor over the processes of a run."""


class Discriminator(Protocol):
    """Images to logits (b, …), above 0 for what looks like the data. ``min_size``: the smallest side in pixels."""

    min_size: int

    def __call__(self, images: Images) -> Tensor: ...


class BuildsDiscriminator(Protocol):
    """The configuration of a discriminator; what it measures of a batch, it averages by ``mean``."""

    def build(self, mean: Mean) -> Discriminator: ...
