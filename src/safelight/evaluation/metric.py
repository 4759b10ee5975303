"""Metrics of reconstruction, which take pairs of pictures batch by batch and keep sums only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from safelight.types.tensors import Images


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures ``before`` and ``after`` (b, 3, h, w): 8-bit values as float32 in [-1, 1].

    If the autoencoder has a codebook, ``indices`` (b, *space) are the pictures' codes, and
    ``codes`` is the size of the codebook.
    """

    before: Images
    after: Images
    indices: Tensor | None = None
    codes: int = 0


class Metric(Protocol):
    """``update`` includes pictures; ``compute`` gives (name, value) of all of them, if any."""

    def update(self, pairs: Pairs) -> None: ...

    def compute(self) -> Iterator[tuple[str, float]]: ...


class Mean:
    """A mean over pictures, of which only the sum is kept."""

    def __init__(self) -> None:
        self.count, self._sum = 0, 0.0

    def add(self, values: Tensor) -> None:
        """Include the values of pictures (b,)."""
        self.count += len(values)
        self._sum += float(values.double().sum())

    @property
    def value(self) -> float:
        """The mean of all values."""
        return self._sum / self.count


def to_8bit(images: Images) -> Tensor:
    """Images in [-1, 1] as whole numbers in [0, 255], in float64."""
    return ((images.double().clamp(-1, 1) + 1) * 127.5).round()


def rounded_to_8bit(images: Images) -> Images:
    """Images rounded to 8 bits, as float32 in [-1, 1]."""
    return (to_8bit(images) / 127.5 - 1).to(torch.float32)
