"""The Fréchet distance between features of pictures and of their reconstructions.

Heusel et al., arXiv 1706.08500. Its name has the network, the number of pictures and their size,
without which values cannot be compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from safelight.config import Builds, Slot
from safelight.evaluation.gaussians import Moments, frechet
from safelight.evaluation.metric import Pairs
from safelight.features.mobilenet import Config as MobileNet
from safelight.types.networks import Features


@dataclass(frozen=True)
class Config:
    network: Annotated[Builds[Features], Slot("features")] = field(default_factory=MobileNet)

    def build(self) -> "Frechet":
        return Frechet(self.network.build())


class Frechet:
    def __init__(self, network: Features) -> None:
        self._network, self._size = network, ""
        self._before, self._after = Moments(), Moments()

    def update(self, pairs: Pairs) -> None:
        self._size = f"{pairs.before.shape[-1]}×{pairs.before.shape[-2]}"
        self._before.add(self._network.vector(pairs.before))
        self._after.add(self._network.vector(pairs.after))

    def compute(self) -> Iterator[tuple[str, float]]:
        count, features = self._before.count, self._before.width
        if count < 2:
            return  # one picture has no covariance
        biased = (
            f", biased: it needs many more than {features} pictures" if count <= features else ""
        )
        pictures = f"{count} pictures of {self._size}{biased}"
        name = f"reconstruction Fréchet distance ({self._network.name}, {pictures})"
        yield name, frechet(self._before, self._after)
