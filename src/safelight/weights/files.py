"""Files of weights, whatever their suffix: names, shapes and types from the header alone, tensors
when asked for."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.errors import BadInput
from safelight.files import digest, within
from safelight.types.shapes import Shapes
from safelight.weights import header, pickles
from safelight.weights.memory import AS_STORED, LoadOptions
from safelight.weights.stored import LazyTensor, WeightFile, samples

if TYPE_CHECKING:
    from torch import Tensor

STRANGERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file: fetch it with `git lfs pull`",
    b"<!DOCTYPE": "a web page: download the file again, from its own address",
    b"<html": "a web page: download the file again, from its own address",
    b"GGUF": (
        "GGUF, quantised for other programs: take the fp16, bf16 or fp8 safetensors of the model"
    ),
}
LONGEST_INDEX = 16 << 20  # bytes
LONGEST_NAME = 200  # characters of a file's


@dataclass(frozen=True, eq=False)
class Weights(Mapping[str, "Tensor"]):
    """The tensors of one or several files, by name. Each is read when it is asked for, anew every
    time.

    A large tensor is mapped: it shares the memory of the file's pages until it is written to, and
    the file never changes. BadInput if it holds NaN or infinity.
    """

    stored: Mapping[str, LazyTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    reading: LoadOptions = AS_STORED

    def __getitem__(self, name: str) -> "Tensor":
        return self.stored[name].read(name, self.reading)

    def __contains__(self, name: object) -> bool:  # of Mapping it would read the tensor
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __or__(self, other: "Weights") -> "Weights":
        """Both; what both hold is taken from ``other``."""
        return Weights({**self.stored, **other.stored}, {**self.metadata, **other.metadata})

    @property
    def shapes(self) -> Shapes:
        """Name → shape."""
        return {name: one.shape for name, one in self.stored.items()}

    @property
    def types(self) -> Mapping[str, str]:
        """Name → type in the words of safetensors: F16, BF16, F32, …"""
        return {name: one.type for name, one in self.stored.items()}

    @property
    def bytes(self) -> int:
        """What all tensors take in memory as they are."""
        return sum(one.bytes for one in self.stored.values())

    @cached_property
    def fingerprint(self) -> str:
        """Which weights these are: one hash of all names, types and shapes, and of a few bytes of
        each tensor.

        It takes milliseconds whatever the size, as the hash of a file does not. Another training,
        merge or precision has another; what changes single values may not. Names and order of the
        files do not matter.
        """
        names = sorted(self.stored)
        found = zip(names, samples(self.stored[name] for name in names), strict=True)
        kinds = {name: f"{name} {one.type} {one.shape}" for name, one in self.stored.items()}
        return digest(part for name, sample in found for part in (kinds[name], sample))

    def under(self, prefix: str) -> "Weights":
        """What has a name that begins with ``prefix``, by the rest of its name."""
        found = {
            name[len(prefix) :]: one for name, one in self.stored.items() if name.startswith(prefix)
        }
        return replace(self, stored=found)

    def without(self, *prefixes: str) -> "Weights":
        """What has a name that begins with none of these."""
        return replace(
            self,
            stored={
                name: one for name, one in self.stored.items() if not name.startswith(prefixes)
            },
        )


def open_weights(path: Path) -> Weights:
    """The weights in a file, known by its content: safetensors, PyTorch's own, or the index of
    several.

    No tensor is read yet, and no pickle ever executed. A file of PyTorch's may nest its tensors:
    names are paths, to be chosen among by ``under("state_dict.")``, ``under("ema.")``, …; other
    words and numbers are in ``metadata``, and under ``unread`` there the names of objects that
    were left alone. Raises BadInput if there is no such file, if it is of another kind or not
    whole.
    """
    source = WeightFile.of(path)
    opening = source.read(0, 64)
    if opening.lstrip()[:1] == b"{" and not header.looks_like(opening):
        return _shards(source)
    return _single(source, opening)


def _single(source: WeightFile, opening: bytes) -> Weights:
    if header.looks_like(opening):
        return Weights(*header.read_header(source))
    if pickles.looks_like(opening):
        if source.path.suffix == ".safetensors":
            raise BadInput(
                f"{source.where} is named safetensors and is a PyTorch pickle; whoever renamed it "
                "may mean harm: "
                "get it elsewhere, or call it .ckpt to have its tensors read (nothing in it is "
                "ever executed)."
            )
        return Weights(*pickles.read_pickled(source))
    for start, what in STRANGERS.items():
        if opening.startswith(start):
            raise BadInput(f"{source.where} is {what}.")
    if not opening:
        raise BadInput(f"{source.where} is empty; get the file again.")
    raise BadInput(
        f"{source.where} is no file of weights: it begins with {opening[:8]!r}; wanted safetensors "
        "or a "
        "PyTorch checkpoint."
    )


def _shards(source: WeightFile) -> Weights:
    """Several files as one, by the index that says which holds which name."""
    where = source.where
    if source.size > LONGEST_INDEX:
        raise BadInput(
            f"{where} has {source.size:,} bytes; wanted an index of at most {LONGEST_INDEX:,}."
        )
    try:
        index = json.loads(source.read(0, source.size))
        places: dict[str, Any] = index["weight_map"]
        files = dict.fromkeys(places.values())
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise BadInput(f"{where} is no index of weights: wanted JSON with a weight_map.") from None
    opened: dict[str, Weights] = {}
    for name in files:
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or "\\" in name
            or len(name) > LONGEST_NAME
        ):
            raise BadInput(
                f"{where} names {str(name)[:200]!r}; wanted the names of files beside it."
            )
        if not (source.path.parent / name).is_file():
            raise BadInput(f"{where} needs {name}, which is missing beside it; get that file too.")
        shard = WeightFile.of(within(source.path.parent / name, source.path.parent))
        opened[name] = _single(shard, shard.read(0, 64))
    for name, file in places.items():
        if name not in opened[file]:
            raise BadInput(
                f"{where} says that {name[:200]} is in {file}, which does not hold it; get both "
                "again."
            )
    declared = index.get("metadata", {})
    metadata = (
        {key: str(value) for key, value in declared.items()} if isinstance(declared, dict) else {}
    )
    for one in opened.values():
        metadata |= one.metadata
    return Weights({name: opened[file].stored[name] for name, file in places.items()}, metadata)
