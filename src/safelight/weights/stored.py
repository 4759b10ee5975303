"""Where a tensor lies in a file, and how it comes to memory: mapped if it is large, checked for
NaN as it is read."""

import mmap
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safelight.errors import BadInput
from safelight.types.shapes import Shape
from safelight.weights.memory import AS_STORED, LoadOptions, finite

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TensorType(NamedTuple):
    """A type of numbers: its name in torch, and the bytes of one number."""

    name: str
    itemsize: int

    @property
    def dtype(self) -> "torch.dtype":
        """The type in torch, which is imported only now."""
        import torch

        dtype: torch.dtype = getattr(torch, self.name)
        return dtype


TYPES: Mapping[str, TensorType] = {
    "BOOL": TensorType("bool", 1),
    "U8": TensorType("uint8", 1),
    "I8": TensorType("int8", 1),
    "F8_E5M2": TensorType("float8_e5m2", 1),
    "F8_E4M3": TensorType("float8_e4m3fn", 1),
    "I16": TensorType("int16", 2),
    "U16": TensorType("uint16", 2),
    "F16": TensorType("float16", 2),
    "BF16": TensorType("bfloat16", 2),
    "I32": TensorType("int32", 4),
    "U32": TensorType("uint32", 4),
    "F32": TensorType("float32", 4),
    "C64": TensorType("complex64", 8),
    "F64": TensorType("float64", 8),
    "I64": TensorType("int64", 8),
    "U64": TensorType("uint64", 8),
}
"""The types of numbers by their names in safetensors, whose files have the last of them first."""

SMALL = 1 << 16  # bytes below which a copy is cheaper than a mapping of its own
POPULATE_READ = 22  # of Linux's madvise, which Python does not name
SAMPLE = 256  # bytes of a tensor that its fingerprint looks at


@dataclass(frozen=True)
class WeightFile:
    """A file as it was when its header was read."""

    path: Path
    size: int  # bytes
    modified: int  # nanoseconds

    @classmethod
    def of(cls, path: Path) -> "WeightFile":
        """BadInput if there is no such file."""
        try:
            found = path.stat()
        except OSError as error:
            raise BadInput(f"{str(path)!r} cannot be read: {error.strerror}.") from None
        if not path.is_file():
            raise BadInput(f"{str(path)!r} is not a file; wanted a file of weights.")
        return cls(path, found.st_size, found.st_mtime_ns)

    @property
    def where(self) -> str:
        """The file as messages call it: its name after its folder's, which may tell it from others
        of that name."""
        return "/".join(self.path.parts[-2:])

    def open(self) -> FileIO:
        """The file, to be read without a buffer."""
        try:
            return FileIO(self.path)
        except OSError as error:
            raise BadInput(f"{str(self.path)!r} cannot be read: {error.strerror}.") from None

    def read(self, start: int, length: int) -> bytes:
        """So many bytes from ``start``, fewer at the end of the file."""
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise BadInput(f"{str(self.path)!r} cannot be read: {error.strerror}.") from None

    def memory(self, start: int, length: int, aligned: bool) -> "mmap.mmap | bytearray":
        """The same, writable without a change to the file: a private mapping of their own, or a
        copy.

        A tensor that has a mapping of its own gives its pages back when it is gone, so that a
        model which is read into another precision never holds two copies of more than one tensor.
        """
        try:
            with self.path.open("rb") as file:
                if WeightFile.of(self.path) != self:
                    raise BadInput(
                        f"{str(self.path)!r} changed while it was being read; load it again."
                    )
                if length >= SMALL and aligned:
                    skip = start % mmap.ALLOCATIONGRANULARITY
                    return at_hand(
                        mmap.mmap(
                            file.fileno(),
                            skip + length,
                            access=mmap.ACCESS_COPY,
                            offset=start - skip,
                        )
                    )
                file.seek(start)
                copy = bytearray(length)
                if file.readinto(copy) == length:
                    return copy
        except OSError as error:
            raise BadInput(
                f"{str(self.path)!r} cannot be read: {error.strerror or error}."
            ) from None
        raise BadInput(f"{str(self.path)!r} ends before its last tensor; get the file again.")


def at_hand(mapping: mmap.mmap) -> mmap.mmap:
    """The mapping with all of its pages in place, so that reading them stops at none; as it was
    where that is unknown.

    A page that is asked for by itself costs Linux more than reading it.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            mapping.madvise(POPULATE_READ)
    return mapping


@dataclass(frozen=True)
class LazyTensor:
    """One tensor in a file: ``start`` is the first byte, ``strides`` (in elements; none:
    contiguous) lead on."""

    source: WeightFile
    start: int
    shape: Shape
    type: str
    strides: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """What the tensor takes in memory."""
        return prod(self.shape) * TYPES[self.type].itemsize

    @property
    def length(self) -> int:
        """The bytes from its first to its last in the file."""
        elements = span(self.shape, self.strides) if self.strides else prod(self.shape)
        return elements * TYPES[self.type].itemsize

    def read(self, name: str, reading: LoadOptions = AS_STORED) -> "Tensor":
        """The tensor as it is wanted. BadInput, in its ``name``, if it holds NaN or infinity."""
        import torch

        dtype = TYPES[self.type].dtype
        if not self.length:
            return torch.empty(self.shape, dtype=dtype)
        memory = self.source.memory(
            self.start, self.length, aligned=self.start % dtype.itemsize == 0
        )
        flat = torch.frombuffer(memory, dtype=dtype, offset=len(memory) - self.length)
        tensor = reading.of(
            flat.as_strided(self.shape, self.strides) if self.strides else flat.view(self.shape)
        )
        reading.count(self.bytes)
        if not finite(tensor):
            raise BadInput(
                f"{self.source.where}: {name} holds values that are not finite (NaN or infinity); "
                "the file is damaged or comes from a training that diverged: get another."
            )
        return tensor


def samples(tensors: Iterable[LazyTensor]) -> Iterator[bytes]:
    """A few bytes from the middle of each tensor, as they lie in its file."""
    with ExitStack() as opened:
        files: dict[WeightFile, FileIO] = {}
        for one in tensors:
            file = files.get(one.source) or files.setdefault(
                one.source, opened.enter_context(one.source.open())
            )
            length = min(one.length, SAMPLE)
            file.seek(one.start + (one.length - length) // 2)
            yield file.read(length)


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How many elements lie between the first and the last of a strided tensor, both counted."""
    return (
        1 + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
        if prod(shape)
        else 0
    )
