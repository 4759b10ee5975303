"""A source with its broken pictures left out, framed, and as tensors and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from safelight.data.examples import Examination, Source
from safelight.data.framing import Framing
from safelight.media.pictures import read_picture
from safelight.types.networks import Prompt
from safelight.types.tensors import Images


@dataclass(frozen=True, eq=False)
class Dataset:
    """The good pictures of an examined source, numbered from 0."""

    source: Source
    found: Examination
    framing: Framing
    seed: int

    def __len__(self) -> int:
        return len(self.found.good)

    def images(self, positions: Sequence[int], indices: Sequence[int]) -> Images:
        """Framed pictures as float32 (b, 3, size, size) in [-1, 1]; positions decide random crops."""
        pixels = []
        for position, index in zip(positions, indices, strict=True):
            picture = read_picture(self.source[self.found.good[index]].picture)
            pixels.append(self.framing(picture, self.seed, position))
        return torch.stack(pixels).float() / 127.5 - 1

    def prompts(self, indices: Sequence[int]) -> list[Prompt]:
        """What a conditioner may know of these pictures: the caption, and the label if there is one."""
        labels = [self.found.labels[index] for index in indices]
        return [
            Prompt(self.found.captions[index], {} if label is None else {"label": label})
            for index, label in zip(indices, labels, strict=True)
        ]

    def hashes(self, indices: Sequence[int]) -> list[str]:
        """The content hashes of these pictures."""
        return [self.found.hashes[index] for index in indices]
