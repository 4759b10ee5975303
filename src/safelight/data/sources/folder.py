"""Folders and zip files of pictures, with captions and labels in the usual forms.

- ``metadata.jsonl``, ``metadata.csv`` or any other ``*.jsonl`` that names files: rows of
  ``file_name`` (or ``file``) with ``text`` (or ``caption``) and ``label`` (or ``class_name``);
- a caption file ``fox.txt`` next to ``fox.png``;
- class folders: where there are no rows, the folder's name is the label.
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
    """Where the pictures are and which of them are used."""

    paths: tuple[str, ...]  # folders or zip files
    only: Mapping[str, str] = field(default_factory=dict)  # metadata that a picture must have,
    # such as {split = "train"}
    caption: str = ""  # the metadata key of captions; "": text, caption or prompt
    label: str = ""  # the metadata key of labels; "": label, class_name, then the folder
    licence: str = "not stated"  # recorded with the models that are trained on the data
    broken: Literal["refuse", "skip"] = "refuse"

    def build(self) -> "Folder":
        return Folder(self)


@dataclass(frozen=True)
class _Row:
    archive: int
    name: str
    caption: str
    label: str | None


class Folder:
    """A ``Source`` of folders and zip files, sorted by name. BadInput if it has no pictures."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.skips_broken = config.broken == "skip"
        if not config.paths:
            raise BadInput("paths: wanted at least one folder or zip file of pictures, got none.")
        self._archives = [_open(Path(path)) for path in config.paths]
        self._rows = [
            row
            for number, archive in enumerate(self._archives)
            for row in self._scan(number, archive)
        ]
        if not self._rows:
            filtered = f" with {dict(config.only)}" if config.only else ""
            raise BadInput(
                f"there are no pictures{filtered} in {', '.join(config.paths)}; "
                "wanted files such as a.png or a.jpg."
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        return Example(row.name, self._archives[row.archive].read(row.name), row.caption, row.label)

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

    def _scan(self, number: int, archive: "_Archive") -> Iterator[_Row]:
        pictures = {
            name for name in archive.names if PurePosixPath(name).suffix.lower() in SUFFIXES
        }
        rows = _metadata(archive, pictures)
        if self.config.only and rows:
            known = {key for row in rows.values() for key in row}
            for key in self.config.only:
                if key not in known:
                    raise unknown(f"metadata key in {archive.title}:", key, known)
        for name in sorted(pictures):
            row = rows.get(name, {})
            only = self.config.only.items()
            if (rows and name not in rows) or any(str(row.get(k)) != v for k, v in only):
                continue
            yield _Row(
                number, name, self._caption(archive, name, row), self._label(archive, name, row)
            )

    def _caption(self, archive: "_Archive", name: str, row: Mapping[str, Any]) -> str:
        keys = [self.config.caption] if self.config.caption else ["text", "caption", "prompt"]
        for key in keys:
            if row.get(key) is not None:
                return str(row[key])
        if self.config.caption and self.config.caption not in row:
            raise unknown(
                f"metadata key for captions in {archive.title}:", self.config.caption, row
            )
        file = str(PurePosixPath(name).with_suffix(".txt"))
        return _text(archive, file).strip() if file in archive.names else ""

    def _label(self, archive: "_Archive", name: str, row: Mapping[str, Any]) -> str | None:
        for key in [self.config.label] if self.config.label else ["label", "class_name"]:
            if row.get(key) is not None:
                return str(row[key])
        if self.config.label and self.config.label not in row:
            raise unknown(f"metadata key for labels in {archive.title}:", self.config.label, row)
        folder = PurePosixPath(name).parent.name
        return folder if folder and not row else None


@dataclass(frozen=True)
class _Archive:
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


def _open(path: Path) -> _Archive:
    if path.is_dir():
        files = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return _Archive(
            str(path), frozenset(filter(_is_wanted, files)), lambda name: (path / name).read_bytes()
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
    return _Archive(str(path), frozenset(filter(_is_wanted, files)), archive.read)


def _is_wanted(name: str) -> bool:
    """False for files that systems leave behind: hidden files and folders, ``__MACOSX``."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" not in parts and not any(
        part.startswith(".") and part != ".." for part in parts
    )


def _metadata(archive: _Archive, pictures: set[str]) -> dict[str, dict[str, Any]]:
    """The metadata row of every picture by its name; rows name files relative to their own file."""
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted(archive.names):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".jsonl" or PurePosixPath(name).name == "metadata.csv":
            must_name_files = PurePosixPath(name).stem == "metadata"
            for number, row in enumerate(_rows(archive, name), 1):
                file = row.get("file_name", row.get("file"))
                if file is None and number == 1 and not must_name_files:
                    break
                if file is None:
                    raise BadInput(f"{archive.title}: row {number} of {name} has no file_name.")
                key = (PurePosixPath(name).parent / str(file)).as_posix()
                if key not in pictures:
                    raise BadInput(
                        f"{archive.title}: {name} names the picture {file!r}, which is not there."
                    )
                rows[key] = row
    return rows


def _rows(archive: _Archive, name: str) -> Iterator[dict[str, Any]]:
    text = _text(archive, name)
    if name.endswith(".csv"):
        try:
            yield from csv.DictReader(io.StringIO(text, newline=""), restkey="")
        except csv.Error as error:
            raise BadInput(f"{archive.title}: {name} is not CSV ({error}).") from None
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(
                f"{archive.title}: line {number} of {name} is not JSON ({error})."
            ) from None
        if not isinstance(row, dict):
            raise BadInput(f"{archive.title}: line {number} of {name} is not a JSON object.")
        yield row


def _text(archive: _Archive, name: str) -> str:
    try:
        return archive.read(name).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{archive.title}: {name} is not UTF-8 text.") from None
