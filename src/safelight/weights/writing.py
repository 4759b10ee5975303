"""Tensors into a safetensors file, one after the other: none is held twice, and whoever waits sees
how far it is."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from safelight.weights.stored import TYPES

NAMES = {kind.dtype: name for name, kind in TYPES.items()}
ORDER = {kind.dtype: -place for place, kind in enumerate(TYPES.values())}
BLOCK = 64 << 20  # bytes written at once


def size(tensors: Mapping[str, Tensor]) -> int:
    """The bytes of all of them."""
    return sum(one.nbytes for one in tensors.values())


def write_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str] | None = None,
    count: Callable[[int], object] = int,
) -> None:
    """Write the file, to the byte as the library ``safetensors`` does, whatever the layout and
    device of the tensors.

    The widest types come first, so that each begins where its type may. ``count`` hears of every
    so many bytes.
    """
    names = sorted(tensors, key=lambda name: (ORDER[tensors[name].dtype], name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in names:
        one, begin = tensors[name], end
        end += one.nbytes
        header[name] = {
            "dtype": NAMES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().view(-1)
            data = flat.view(torch.uint8).numpy().data if len(flat) else memoryview(b"")
            while data:  # a disk that is nearly full takes less than it is given
                written = file.write(data[:BLOCK])
                data = data[written:]
                count(written)
