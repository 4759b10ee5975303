"""What a metric of reconstruction is: it sees pairs of pictures, a batch at a time, and keeps sums only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from safelight.types.tensors import Images


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures ``before`` (b, 3, h, w) and what came back, ``after``: 8-bit values as float32 in [-1, 1].

    ``indices`` (b, *space) are their codes and ``codes`` is how many there are, if the autoencoder has a codebook.
    """

    before: Images
    after: Images
    indices: Tensor | None = None
    codes: int = 0


class Metric(Protocol):
    """``results``: (name, value) for each thing measured; none where there is nothing to measure."""

    def see(self, pairs: Pairs) -> None: ...

    def results(self) -> Iterator[tuple[str, float]]: ...


class Mean:
    """A mean over pictures, and nothing kept but its sum."""

    def __init__(self) -> None:
        self.count, self._sum = 0, 0.0

    def add(self, values: Tensor) -> None:
        """Values of pictures (b,)."""
        self.count += len(values)
        self._sum += float(values.double().sum())

    @property
    def value(self) -> float:
        """The mean of all that was added."""
        return self._sum / self.count


def eight_bit(images: Images) -> Tensor:
    """Images in [-1, 1] as float64 in [0, 255], whole numbers."""
    return ((images.double().clamp(-1, 1) + 1) * 127.5).round()


def rounded(images: Images) -> Images:
    """Images as an 8-bit picture holds them, float32 in [-1, 1]."""
    return (eight_bit(images) / 127.5 - 1).to(torch.float32)
