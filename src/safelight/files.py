"""Files that are whole or absent: everything is written aside and renamed; a full disk is one clear sentence."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safelight.errors import CannotSave


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file to; it takes its place when the block ends well, else it is removed."""
    aside = _aside(path)
    with _saving(path, aside):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _sync(aside)
        os.replace(aside, path)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: an earlier one of that name is replaced when the new one is whole."""
    aside = _aside(path)
    with _saving(path, aside):
        aside.mkdir(parents=True)
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _sync(file)
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once."""
    with writing(path) as aside:
        aside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file at once, in UTF-8."""
    write_bytes(path, text.encode())


def sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(parts: Iterable[str | bytes]) -> str:
    """One hash of many parts in their order, unambiguous about where each ends."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o666 & ~_UMASK)  # some writers keep their files to themselves


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()


@contextmanager
def _saving(path: Path, aside: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotSave(f"cannot save {str(path)!r}: {reason}; nothing was changed.") from error
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with suppress(OSError):
                aside.unlink()


def cache_folder() -> Path:
    """Where what can be made again is kept between runs: ``$SAFELIGHT_CACHE``, else the user's cache folder."""
    named = os.environ.get("SAFELIGHT_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "safelight"
