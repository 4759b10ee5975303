"""Peak signal to noise ratio, in dB, of 8-bit pictures: the mean over pictures of 10 · log10(255² / mean square)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from safelight.evaluation.metric import Mean, Pairs, eight_bit

MOST = 100.0
"""What identical pictures count as, whose ratio is infinite."""


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""

    def build(self) -> "PSNR":
        return PSNR()


class PSNR:
    def __init__(self) -> None:
        self._mean = Mean()

    def see(self, pairs: Pairs) -> None:
        square = (
            (eight_bit(pairs.before) - eight_bit(pairs.after)).square().flatten(1).mean(1)
        )  # (b,)
        self._mean.add((10 * torch.log10(255**2 / square)).clamp(max=MOST))

    def results(self) -> Iterator[tuple[str, float]]:
        yield "PSNR (dB, 8-bit)", self._mean.value
