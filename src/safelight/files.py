"""Files that are complete or absent: everything is written to a scratch path and then renamed."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safelight.errors import BadInput, CannotSave

MAX_JSON_BYTES = 16 << 20


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file to; it takes its place when the block ends well, else
    it is removed."""
    with _scratch_folder(path) as scratch:
        yield scratch / path.name
        _sync(scratch / path.name)
        os.replace(scratch / path.name, path)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: an earlier one of that name is replaced when the new one is whole."""
    with _scratch_folder(path) as scratch:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise


def check_writable(path: Path) -> None:
    """CannotSave before the work rather than after it, if nothing can be written at ``path``."""
    with _scratch_folder(path):
        pass


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once."""
    with writing(path) as aside:
        aside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file at once, in UTF-8."""
    write_bytes(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; BadInput if it cannot be read or is something else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise ValueError(f"it is longer than {MAX_JSON_BYTES:,} bytes")
        value = json.loads(data.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path.parent.name}/{path.name} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path.parent.name}/{path.name}: wanted a JSON object.")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path, count: Callable[[int], object] = int) -> str:
    """The SHA-256 of a file's bytes; ``count`` is called with the length of each block read."""
    whole, block = hashlib.sha256(), bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while length := file.readinto(block):
            whole.update(memoryview(block)[:length])
            count(length)
    return whole.hexdigest()


def digest(parts: Iterable[str | bytes]) -> str:
    """One hash of many parts in their order, unambiguous about where each ends."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o666 & ~_UMASK)  # some writers make files private


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    """A folder on the same file system as ``path``, gone afterwards with all that was left in
    it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name[:40]}.",
            suffix=".part",
            dir=path.parent,
            ignore_cleanup_errors=True,
        ) as scratch:
            yield Path(scratch)
    except CannotSave:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotSave(f"cannot save {str(path)!r}: {reason}; nothing was changed.") from error


def within(path: Path, folder: Path) -> Path:
    """The path itself. BadInput if it is a link out of the folder: whoever made it may want to see
    what you have.

    The hub's cache keeps its files beside the folders of a model, in ``blobs``, with links to them.
    """
    home, target = folder.resolve(), path.resolve()
    caches = [
        folder.parent.parent / "blobs"
        for folder in (home, *home.parents)
        if folder.parent.name == "snapshots"
    ]
    if not any(target.is_relative_to(folder) for folder in (home, *caches)):
        raise BadInput(
            f"{str(path)!r} is a link out of its folder, to {str(target)!r}; put the file itself "
            "there."
        )
    return path


def cache_folder() -> Path:
    """Where what can be made again is kept between runs: ``$SAFELIGHT_CACHE``, else the user's
    cache folder."""
    named = os.environ.get("SAFELIGHT_CACHE")
    return (
        Path(named)
        if named
        else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "safelight"
    )
