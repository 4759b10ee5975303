"""Training examples, the sources that hold them, and the order in which training takes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch

from safelight.errors import BadInput
from safelight.files import digest
from safelight.media.pictures import read_picture

Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


@dataclass(frozen=True)
class Example:
    """A picture as its source holds it; ``picture`` is the content of the file."""

    name: str
    picture: bytes
    caption: str = ""
    label: str | None = None


class Source(Protocol):
    """Pictures with captions and labels, in an order that never changes.

    Taking a picture that cannot be read raises BadInput.
    """

    @property
    def skips_broken(self) -> bool: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def origin(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Examination:
    """The result of reading a whole source: which pictures are good, and what belongs to each."""

    good: tuple[int, ...]  # indices into the source
    broken: tuple[str, ...]  # "name: why"
    hashes: tuple[str, ...]  # of the good pictures, as are captions and labels
    captions: tuple[str, ...]
    labels: tuple[str | None, ...]

    @property
    def digest(self) -> str:
        """One hash of everything that training sees."""
        return digest(
            f"{picture} {caption!r} {label!r}"
            for picture, caption, label in zip(self.hashes, self.captions, self.labels, strict=True)
        )


def examine(source: Source, progress: Progress | None = None) -> Examination:
    """Decode every picture once.

    BadInput names broken pictures, unless the source skips them.
    """
    good, broken, examples = [], [], []
    for index in range(len(source)):
        try:
            example = source[index]
            read_picture(example.picture, example.name)
        except BadInput as error:
            broken.append(str(error))
        else:
            good.append(index)
            examples.append((digest([example.picture]), example.caption, example.label))
        if progress:
            progress(index + 1, len(source))
    if broken and not source.skips_broken:
        shown = " ".join(broken[:3])
        raise BadInput(
            f"{len(broken)} of {len(source)} pictures cannot be read: {shown}"
            f"{' …' if len(broken) > 3 else ''} "
            'Repair or remove them, or set broken = "skip" in the recipe.'
        )
    if not good:
        raise BadInput(
            f"none of the {len(source)} pictures can be read; "
            f"the first: {broken[0] if broken else '-'}"
        )
    hashes, captions, labels = zip(*examples, strict=True)
    return Examination(tuple(good), tuple(broken), hashes, captions, labels)


@dataclass(frozen=True)
class Order:
    """Which example comes at which position: a new permutation in each epoch.

    Positions count examples since the start of training. Of each batch of ``batch`` positions, rank
    r of w takes every w-th, so that the batch is the same however many processes share it.
    """

    count: int
    seed: int
    rank: int = 0
    world: int = 1

    def index(self, position: int) -> int:
        """The index of the example at a position."""
        epoch, place = divmod(position, self.count)
        return _permutation(self.count, self.seed, epoch)[place]

    def batches(self, batch: int, position: int = 0) -> Iterator[tuple[list[int], list[int]]]:
        """Endless batches of (positions, indices) of this rank, starting at ``position``."""
        while True:
            positions = list(range(position + self.rank, position + batch, self.world))
            yield positions, [self.index(place) for place in positions]
            position += batch


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    key = int(digest([f"{seed} {epoch}"])[:15], 16)
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(key)).tolist()
    return order
