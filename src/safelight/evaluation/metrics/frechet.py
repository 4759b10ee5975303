"""The Fréchet distance between the features of pictures and of their reconstructions (Heusel et al., arXiv
1706.08500), with its network, the number of pictures and their size beside it: without these it says nothing."""

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

    def see(self, pairs: Pairs) -> None:
        self._size = f"{pairs.before.shape[-1]}×{pairs.before.shape[-2]}"
        self._before.add(self._network.vector(pairs.before))
        self._after.add(self._network.vector(pairs.after))

    def results(self) -> Iterator[tuple[str, float]]:
        count, features = self._before.count, self._before.width
        if count < 2:
            return  # one picture has no spread
        biased = (
            f", biased: it wants many more than {features} pictures" if count <= features else ""
        )
        name = f"reconstruction Fréchet distance ({self._network.name}, {count} pictures of {self._size}{biased})"
        yield name, frechet(self._before, self._after)
