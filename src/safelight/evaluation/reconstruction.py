"""Evaluating an autoencoder on a set of pictures: metrics, and a sheet of reconstructions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from safelight.config import Slot
from safelight.data.dataset import Dataset
from safelight.data.examples import Example, Source
from safelight.evaluation.metric import Metric, Pairs, rounded_to_8bit
from safelight.media.pictures import sheet, to_pictures
from safelight.model import module
from safelight.runtime.sizes import crop, pad, require_numbers
from safelight.types.networks import Autoencoder, DiscreteAutoencoder
from safelight.types.tensors import Images

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Subset:
    """A ``Source`` of up to ``count`` pictures, spread evenly over another source."""

    source: Source
    count: int

    @property
    def skips_broken(self) -> bool:
        """Whether the source skips broken pictures."""
        return self.source.skips_broken

    def __len__(self) -> int:
        return min(self.count, len(self.source))

    def __getitem__(self, index: int) -> Example:
        return self.source[index * len(self.source) // len(self)]

    def origin(self) -> dict[str, Any]:
        """The origin of the source, with the number of pictures that were taken."""
        return {**self.source.origin(), "taken": len(self)}


def metrics() -> list[Metric]:
    """Every metric of the folder ``metrics``, with its defaults."""
    return [config().build() for config in Slot("evaluation.metrics").all()]


@torch.no_grad()
def measure(
    autoencoder: Autoencoder,
    dataset: Dataset,
    metrics: Sequence[Metric],
    progress: ProgressCallback,
    batch: int = 8,
) -> dict[str, float]:
    """Every metric by name, of reconstructions from the mode of each encoding."""
    total = len(dataset)
    for start in range(0, total, batch):
        indices = list(range(start, min(start + batch, total)))
        pairs = pair(autoencoder, dataset.images(indices, indices))
        for metric in metrics:
            metric.update(pairs)
        progress(start + len(indices), total)
    return {name: value for metric in metrics for name, value in metric.compute()}


@torch.no_grad()
def pair(autoencoder: Autoencoder, images: Images) -> Pairs:
    """Images (b, c, h, w) of any size with their reconstructions. BadInput for NaN pixels."""
    require_numbers(images)
    inner = next(module(autoencoder).parameters(), images)
    latents = autoencoder.encode(pad(images.to(inner.device), autoencoder.factor)).mode()
    restored = crop(autoencoder.decode(latents), *images.shape[-2:]).float().cpu()
    before, after = rounded_to_8bit(images), rounded_to_8bit(restored)
    if isinstance(autoencoder, DiscreteAutoencoder):
        return Pairs(before, after, autoencoder.indices(latents), autoencoder.codes)
    return Pairs(before, after)


def comparison_sheet(autoencoder: Autoencoder, dataset: Dataset, rows: int = 8) -> Image.Image:
    """A sheet of ``rows`` pictures: original, reconstruction and difference × 4 on grey."""
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
    yield from (list(row) for row in zip(*map(to_pictures, columns), strict=True))
