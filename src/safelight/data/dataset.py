"""A source without its broken pictures, as tensors of framed pictures and as prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

from safelight.data.examples import Examination, Source
from safelight.data.framing import Framing, framed
from safelight.types.networks import Prompt
from safelight.types.tensors import Images


@dataclass(frozen=True, eq=False)
class Dataset:
    """The readable pictures of a source, numbered from 0."""

    source: Source
    examination: Examination
    framing: Framing
    seed: int

    def __len__(self) -> int:
        return len(self.examination.good)

    def images(self, positions: Sequence[int], indices: Sequence[int]) -> Images:
        """Framed pictures as float32 (b, 3, size, size) in [-1, 1].

        Their ``positions`` in the order of training decide random crops.
        """
        places = [self.examination.good[index] for index in indices]
        return framed(self.source, places, self.framing, self.seed, positions)

    def prompts(self, indices: Sequence[int]) -> list[Prompt]:
        """The captions of these pictures as prompts, with the label where there is one."""
        labels = [self.examination.labels[index] for index in indices]
        return [
            Prompt(self.examination.captions[index], {} if label is None else {"label": label})
            for index, label in zip(indices, labels, strict=True)
        ]

    def hashes(self, indices: Sequence[int]) -> list[str]:
        """The content hashes of these pictures."""
        return [self.examination.hashes[index] for index in indices]
