"""Peak signal-to-noise ratio of 8-bit pictures, in dB.

The mean over pictures of 10 · log10(255² / mean square error).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from safelight.evaluation.metric import Mean, Pairs, to_8bit

MAX_DB = 100.0
"""The value of identical pictures, whose ratio is infinite."""


@dataclass(frozen=True)
class Config:
    """There are no options."""

    def build(self) -> "PSNR":
        return PSNR()


class PSNR:
    def __init__(self) -> None:
        self._mean = Mean()

    def update(self, pairs: Pairs) -> None:
        difference = to_8bit(pairs.before) - to_8bit(pairs.after)
        square = difference.square().flatten(1).mean(1)  # (b,)
        self._mean.add((10 * torch.log10(255**2 / square)).clamp(max=MAX_DB))

    def compute(self) -> Iterator[tuple[str, float]]:
        yield "PSNR (dB, 8-bit)", self._mean.value
