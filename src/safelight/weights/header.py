"""The header of a safetensors file, checked by us: what it says of each tensor, before a byte of
one is touched."""

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

from safelight.errors import BadInput
from safelight.weights.stored import TYPES, LazyTensor, WeightFile

LONGEST = 16 << 20
"""The most bytes of a header: enough for a hundred thousand tensors."""
AXES = 64  # of a tensor, at most


def looks_like(opening: bytes) -> bool:
    """Whether a file that begins so is safetensors, whole or not."""
    return opening[8:9] == b"{" and int.from_bytes(opening[:8], "little") < 1 << 40


def read_header(source: WeightFile) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors by name, in the order of the file, and the metadata.

    Raises BadInput with what is wrong: the file ends early, the header is too long or no JSON,
    names come twice, tensors overlap, leave gaps or do not have the bytes that their shapes and
    types need.
    """
    where, length = source.where, int.from_bytes(source.read(0, 8), "little")
    if length > LONGEST:
        raise BadInput(
            f"{where} has a header of {length:,} bytes; wanted at most {LONGEST:,}: it is damaged "
            "or made to do harm."
        )
    if 8 + length > source.size:
        raise BadInput(
            f"{where} ends within its header, after {source.size:,} of {8 + length:,} bytes; get "
            "the file again."
        )
    header = _parse(source.read(8, length), where)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise BadInput(f"{where}: wanted metadata of words only; get the file again.")
    begin, tensors, ends = 8 + length, {}, []
    for name, entry in header.items():
        start, end, shape, kind = _entry(entry, f"{where}: {name[:200]}")
        tensors[name] = LazyTensor(source, begin + start, shape, kind)
        if tensors[name].bytes != end - start:
            raise BadInput(
                f"{where}: {name[:200]} has {end - start:,} bytes; "
                f"its shape {shape} of {kind} needs {tensors[name].bytes:,}."
            )
        ends.append((start, end, name))
    _check_places(sorted(ends), source.size - begin, where)
    return tensors, metadata


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        header = json.loads(data.decode(), object_pairs_hook=_once)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{where} has a header that is not JSON ({error}); get the file again."
        ) from None
    if not isinstance(header, dict):
        raise BadInput(f"{where}: wanted a header that names tensors; get the file again.")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; BadInput if a name comes twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadInput(f"{name[:200]} is there twice; which one counts cannot be known.")
        found[name] = value
    return found


def _entry(entry: Any, where: str) -> tuple[int, int, tuple[int, ...], str]:
    try:
        kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise BadInput(
            f"{where} wants a dtype, a shape and two data_offsets; get the file again."
        ) from None
    if kind not in TYPES if isinstance(kind, str) else True:
        raise BadInput(f"{where} is of type {str(kind)[:40]!r}; known: {', '.join(TYPES)}.")
    if (
        not isinstance(shape, list)
        or len(shape) > AXES
        or not _counts(chain(shape, (start, end)))
        or end < start
    ):
        raise BadInput(
            f"{where} has a shape or offsets that no tensor can have; get the file again."
        )
    return start, end, tuple(shape), kind


def _counts(values: Iterable[Any]) -> bool:
    return all(type(one) is int and 0 <= one < 1 << 63 for one in values)


def _check_places(places: list[tuple[int, int, str]], length: int, where: str) -> None:
    """Each tensor begins where the one before ends, and the file ends with the last."""
    after, before = 0, "the header"
    for start, end, name in places:
        if start != after:
            wrong = (
                f"overlaps {before}"
                if start < after
                else f"leaves a gap of {start - after:,} bytes after {before}"
            )
            raise BadInput(
                f"{where}: {name[:200]} {wrong[:300]}; the file is damaged or made to mislead."
            )
        after, before = end, name
    if after != length:
        wrong = (
            f"ends after {length:,} of {after:,}"
            if length < after
            else f"holds {length:,} instead of {after:,}"
        )
        raise BadInput(f"{where} {wrong} bytes of tensors; get the file again.")
