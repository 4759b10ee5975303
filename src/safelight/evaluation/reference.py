"""Real pictures to judge against: framed, with their captions and what their metadata say of
them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from safelight.data.dataset import Dataset
from safelight.data.examples import examine
from safelight.data.framing import Framing
from safelight.data.sources.folder import Config as FolderConfig
from safelight.errors import BadInput
from safelight.evaluation.reconstruction import Subset
from safelight.files import cache_folder, digest, writing
from safelight.types.networks import Features
from safelight.types.tensors import Images

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Columns:
    """The metadata's keys of a picture's style, thing and group. None: ``style``, ``name`` and
    ``group`` if the metadata have them, and for the thing its label."""

    style: str | None = None
    thing: str | None = None
    group: str | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """Real pictures of one size. Styles, things and groups are "" where nothing is known of
    them."""

    dataset: Dataset
    captions: list[str]
    styles: list[str]
    things: list[str]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.dataset)

    def images(self, places: Sequence[int]) -> Images:
        """The framed pictures at these places, (b, 3, size, size)."""
        return self.dataset.images(places, places)

    def facts(self) -> dict[str, Any]:
        """What is recorded of the data: where they are from, how many were taken, their hash."""
        examination = self.dataset.examination
        return {
            **self.dataset.source.origin(),
            "judged": len(self),
            "broken": list(examination.broken),
            "digest": examination.digest,
        }


def reference(
    config: FolderConfig, columns: Columns, size: int, count: int, report: Progress, title: str
) -> Reference:
    """Up to ``count`` pictures spread evenly over a source, as centre squares of ``size`` pixels.

    BadInput if there are none, or if a key that ``columns`` names is not in the metadata.
    """
    whole = config.build()
    subset = Subset(whole, count)
    examination = examine(subset, lambda done, total: report(f"reading {title}", done, total))
    dataset = Dataset(subset, examination, Framing(size), seed=0)
    places = [place * len(whole) // len(subset) for place in examination.good]
    things = _column(config, columns.thing, "name", places)
    captions = list(examination.captions)
    labels = [label or "" for label in examination.labels]
    return Reference(
        dataset,
        [caption or label for caption, label in zip(captions, labels, strict=True)],
        _column(config, columns.style, "style", places),
        things if any(things) else labels,
        _column(config, columns.group, "group", places),
    )


def shared_pictures(held_out: Reference, training: Reference) -> int:
    """How many held-out pictures are training pictures, byte for byte. BadInput if all of them
    are."""
    training_hashes = set(training.dataset.examination.hashes)
    count = sum(picture in training_hashes for picture in held_out.dataset.examination.hashes)
    if count == len(held_out):
        raise BadInput(
            f"all {count} pictures to judge against are training pictures; name held-out ones, "
            "such as --only split=val_pair beside --train-only split=train."
        )
    return count


def picture_vectors(
    network: Features,
    images: Callable[[Sequence[int]], Images],
    count: int,
    report: Callable[[int, int], None],
    batch: int = 16,
) -> Tensor:
    """The pooled features of ``count`` pictures, float32 (count, d) on the CPU."""
    device = _device(network)
    batches = []
    for start in range(0, count, batch):
        places = range(start, min(start + batch, count))
        with torch.inference_mode():
            batches.append(network.vector(images(places).to(device)).float().cpu())
        report(places.stop, count)
    return torch.cat(batches).clone()


def reference_vectors(
    network: Features, pictures: Reference, report: Callable[[int, int], None]
) -> Tensor:
    """The pooled features of real pictures, kept in the cache between runs."""
    from safetensors.torch import load_file, save_file

    framing = [str(value) for value in vars(pictures.dataset.framing).values()]
    key = digest([_fingerprint(network), *framing, *pictures.dataset.examination.hashes])
    path = cache_folder() / "features" / f"{network.name}-{key[:24]}.safetensors"
    if path.is_file():
        return load_file(path)["vectors"]
    vectors = picture_vectors(network, pictures.images, len(pictures), report)
    with writing(path) as aside:
        save_file({"vectors": vectors}, aside)
    return vectors


def _column(config: FolderConfig, key: str | None, usual: str, places: Sequence[int]) -> list[str]:
    """The metadata's values of a key at these places; without it "" each, unless it was named."""
    try:
        values = replace(config, caption=key or usual).build()
    except BadInput:
        if key is not None:
            raise
        return [""] * len(places)
    return [values[place].caption for place in places]


def _device(network: Features) -> torch.device:
    assert isinstance(network, torch.nn.Module)
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _fingerprint(network: Features) -> str:
    """A hash of a network's weights: its name alone would not tell two files apart."""
    assert isinstance(network, torch.nn.Module)
    tensors = sorted(network.state_dict().items())
    return digest(
        [part for name, tensor in tensors for part in (name, tensor.cpu().numpy().tobytes())]
    )
