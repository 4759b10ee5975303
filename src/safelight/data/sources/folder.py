"""Folders of pictures, plain or zipped, with captions and labels in the forms that people already have.

- ``metadata.jsonl``, ``metadata.csv`` or any other ``*.jsonl`` that names files: rows of ``file_name`` (or ``file``)
  with ``text`` (or ``caption``) and ``label`` (or ``class_name``);
- a side-car ``fox.txt`` beside ``fox.png``;
- class folders: where there is neither, the folder's name is the label.
"""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from safelight.data.examples import Example
from safelight.errors import BadInput, unknown
from safelight.files import sha256

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class Config:
    """Where the pictures are and which of them count."""

    paths: tuple[str, ...]  # folders or zip files
    only: Mapping[str, str] = field(
        default_factory=dict
    )  # rows whose metadata say so, e.g. {split = "train"}
    caption: str = ""  # the metadata's key of captions; "": text, caption or prompt
    label: str = ""  # the metadata's key of labels; "": label or class_name, then the folder's name
    licence: str = "not stated"  # recorded with what is trained on it
    broken: Literal["refuse", "skip"] = "refuse"

    def build(self) -> "Folder":
        return Folder(self)


@dataclass(frozen=True)
class _Row:
    place: int
    name: str
    caption: str
    label: str | None


class Folder:
    """A ``Source`` over folders and zips, sorted by name. BadInput if there is nothing to train on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.skips_broken = config.broken == "skip"
        if not config.paths:
            raise BadInput("paths: wanted at least one folder or zip file of pictures, got none.")
        self._places = [_open(Path(path)) for path in config.paths]
        self._rows = [
            row for number, place in enumerate(self._places) for row in self._scan(number, place)
        ]
        if not self._rows:
            filtered = f" with {dict(config.only)}" if config.only else ""
            raise BadInput(
                f"there are no pictures{filtered} in {', '.join(config.paths)}; wanted files such as a.png or a.jpg."
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        return Example(row.name, self._places[row.place].read(row.name), row.caption, row.label)

    def origin(self) -> dict[str, Any]:
        """Where the data came from, for the record: paths, hashes of zips, licence, count."""
        hashes = {
            path.name: sha256(path) for path in map(Path, self.config.paths) if path.is_file()
        }
        return {
            "paths": list(self.config.paths),
            "sha256": hashes,
            "licence": self.config.licence,
            "count": len(self),
        }

    def _scan(self, number: int, place: "_Place") -> Iterator[_Row]:
        pictures = {name for name in place.names if PurePosixPath(name).suffix.lower() in SUFFIXES}
        facts = _metadata(place, pictures)
        if self.config.only and facts:
            known = {key for row in facts.values() for key in row}
            for key in self.config.only:
                if key not in known:
                    raise unknown(f"metadata key in {place.title}:", key, known)
        for name in sorted(pictures):
            row = facts.get(name, {})
            if (facts and name not in facts) or any(
                str(row.get(k)) != v for k, v in self.config.only.items()
            ):
                continue
            yield _Row(number, name, self._caption(place, name, row), self._label(place, name, row))

    def _caption(self, place: "_Place", name: str, row: Mapping[str, Any]) -> str:
        keys = [self.config.caption] if self.config.caption else ["text", "caption", "prompt"]
        for key in keys:
            if row.get(key) is not None:
                return str(row[key])
        if self.config.caption and self.config.caption not in row:
            raise unknown(f"metadata key for captions in {place.title}:", self.config.caption, row)
        beside = str(PurePosixPath(name).with_suffix(".txt"))
        return _text(place, beside).strip() if beside in place.names else ""

    def _label(self, place: "_Place", name: str, row: Mapping[str, Any]) -> str | None:
        for key in [self.config.label] if self.config.label else ["label", "class_name"]:
            if row.get(key) is not None:
                return str(row[key])
        if self.config.label and self.config.label not in row:
            raise unknown(f"metadata key for labels in {place.title}:", self.config.label, row)
        folder = PurePosixPath(name).parent.name
        return folder if folder and not row else None


@dataclass(frozen=True)
class _Place:
    title: str
    names: frozenset[str]
    source: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        try:
            return self.source(name)
        except (
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            RuntimeError,
            ValueError,
        ) as error:
            raise BadInput(f"{name}: cannot be read from {self.title} ({error}).") from None


def _open(path: Path) -> _Place:
    if path.is_dir():
        files = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return _Place(
            str(path), frozenset(filter(_counts, files)), lambda name: (path / name).read_bytes()
        )
    if not path.exists():
        raise BadInput(f"there is no folder or zip file {str(path)!r}.")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(
            f"{str(path)!r} is neither a folder nor a zip file that can be read ({error})."
        ) from None
    files = (name for name in archive.namelist() if not name.endswith("/"))
    return _Place(str(path), frozenset(filter(_counts, files)), archive.read)


def _counts(name: str) -> bool:
    """False for what systems leave beside people's files: hidden files and folders, macOS's second halves."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" not in parts and not any(
        part.startswith(".") and part != ".." for part in parts
    )


def _metadata(place: _Place, pictures: set[str]) -> dict[str, dict[str, Any]]:
    """Every picture's row, by name; rows name files relative to the file that they stand in."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(place.names):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".jsonl" or PurePosixPath(name).name == "metadata.csv":
            of_pictures = PurePosixPath(name).stem == "metadata"
            for number, row in enumerate(_rows(place, name), 1):
                file = row.get("file_name", row.get("file"))
                if file is None and number == 1 and not of_pictures:
                    break
                if file is None:
                    raise BadInput(f"{place.title}: row {number} of {name} has no file_name.")
                key = (PurePosixPath(name).parent / str(file)).as_posix()
                if key not in pictures:
                    raise BadInput(
                        f"{place.title}: {name} names the picture {file!r}, which is not there."
                    )
                found[key] = row
    return found


def _rows(place: _Place, name: str) -> Iterator[dict[str, Any]]:
    text = _text(place, name)
    if name.endswith(".csv"):
        try:
            yield from csv.DictReader(io.StringIO(text, newline=""), restkey="")
        except csv.Error as error:
            raise BadInput(f"{place.title}: {name} is not CSV ({error}).") from None
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(
                f"{place.title}: line {number} of {name} is not JSON ({error})."
            ) from None
        if not isinstance(row, dict):
            raise BadInput(f"{place.title}: line {number} of {name} is not a JSON object.")
        yield row


def _text(place: _Place, name: str) -> str:
    try:
        return place.read(name).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{place.title}: {name} is not UTF-8 text.") from None
