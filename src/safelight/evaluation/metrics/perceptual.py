"""The perceptual distance, under a feature network that its name mentions."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from safelight.config import Builds, Slot
from safelight.evaluation.metric import Mean, Pairs
from safelight.features.tiny_darknet import Config as TinyDarknet
from safelight.nn.perceptual import perceptual
from safelight.types.networks import Features


@dataclass(frozen=True)
class Config:
    network: Annotated[Builds[Features], Slot("features")] = field(default_factory=TinyDarknet)

    def build(self) -> "Perceptual":
        return Perceptual(self.network.build())


class Perceptual:
    def __init__(self, network: Features) -> None:
        self._network, self._mean = network, Mean()

    def update(self, pairs: Pairs) -> None:
        self._mean.add(perceptual(self._network, pairs.before, pairs.after))

    def compute(self) -> Iterator[tuple[str, float]]:
        yield f"perceptual distance ({self._network.name})", self._mean.value
