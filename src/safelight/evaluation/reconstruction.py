"""Judging a first stage: what comes back of a set of pictures, in numbers and on a sheet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from safelight.config import Slot
from safelight.data.dataset import Dataset
from safelight.data.examples import Example, Source
from safelight.evaluation.metric import Metric, Pairs, rounded
from safelight.media.pictures import sheet, to_pictures
from safelight.model import module
from safelight.runtime.sizes import crop, pad, require_numbers
from safelight.types.networks import Autoencoder, DiscreteAutoencoder
from safelight.types.tensors import Images

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Some:
    """``count`` pictures spread evenly over a source (all, if it has no more); itself a ``Source``."""

    source: Source
    count: int

    @property
    def skips_broken(self) -> bool:
        """As the source says."""
        return self.source.skips_broken

    def __len__(self) -> int:
        return min(self.count, len(self.source))

    def __getitem__(self, index: int) -> Example:
        return self.source[index * len(self.source) // len(self)]

    def origin(self) -> dict[str, Any]:
        """The source's, and how many were taken."""
        return {**self.source.origin(), "taken": len(self)}


def metrics() -> list[Metric]:
    """One of each metric in the folder, with its defaults."""
    return [config().build() for config in Slot("evaluation.metrics").all()]


@torch.no_grad()
def judge(
    autoencoder: Autoencoder,
    dataset: Dataset,
    measures: Sequence[Metric],
    told: Told,
    batch: int = 8,
) -> dict[str, float]:
    """Every measure of every picture's likeliest reconstruction, by name; one batch is held at a time."""
    total = len(dataset)
    for start in range(0, total, batch):
        indices = list(range(start, min(start + batch, total)))
        pairs = pair(autoencoder, dataset.images(indices, indices))
        for measure in measures:
            measure.see(pairs)
        told(start + len(indices), total)
    return {name: value for measure in measures for name, value in measure.results()}


@torch.no_grad()
def pair(autoencoder: Autoencoder, images: Images) -> Pairs:
    """Images (b, c, h, w) of any size and what comes back of them. BadInput for pixels that are no numbers."""
    require_numbers(images)
    inner = next(module(autoencoder).parameters(), images)
    latents = autoencoder.encode(pad(images.to(inner.device), autoencoder.factor)).mode()
    again = crop(autoencoder.decode(latents), *images.shape[-2:]).float().cpu()
    before, after = rounded(images), rounded(again)
    if isinstance(autoencoder, DiscreteAutoencoder):
        return Pairs(before, after, autoencoder.indices(latents), autoencoder.codes)
    return Pairs(before, after)


def compared(autoencoder: Autoencoder, dataset: Dataset, rows: int = 8) -> Image.Image:
    """A sheet of up to ``rows`` pictures spread over the data: original | reconstruction | difference × 4 on grey."""
    count = min(rows, len(dataset))
    places = [number * len(dataset) // count for number in range(count)]
    return sheet(
        [
            row
            for place in places
            for row in _rows(pair(autoencoder, dataset.images([place], [place])))
        ]
    )


def _rows(pairs: Pairs) -> Iterator[list[Image.Image]]:
    columns = (pairs.before, pairs.after, 4 * (pairs.after - pairs.before))
    yield from (list(row) for row in zip(*(to_pictures(one) for one in columns), strict=True))
