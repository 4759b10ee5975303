"""Licences of weights: what was stated with them, what a model is under, what users must know."""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safelight.errors import Note
from safelight.files import within

PARTS = ("autoencoder", "conditioner", "denoiser")
NOT_STATED = "not stated"
METADATA_KEYS = ("modelspec.license", "license", "licence")
_RESTRICTED = re.compile(r"non[- ]?commercial|\bnc\b", re.I)


@dataclass(frozen=True)
class PartLicence:
    """The licence of some weights: of a part of a model, or of a file that is attached to one.

    ``part`` is autoencoder, conditioner or denoiser, else what the attached file is: adapter, word,
    control, image prompt. ``licence`` is empty where nobody stated one; ``usual`` is then the
    licence of the weights that are published under this architecture, where it is known, in the
    form "Stable Diffusion 1: CreativeML Open RAIL-M".
    """

    part: str
    source: str = ""  # the file, folder or model that the weights come from
    licence: str = ""
    usual: str = ""

    def __str__(self) -> str:
        if self.licence:
            return self.licence
        return f"{NOT_STATED} (public weights of {self.usual})" if self.usual else NOT_STATED

    @property
    def is_stated(self) -> bool:
        """Whether somebody stated it; a model that was saved without one has "not stated"."""
        return bool(self.licence) and NOT_STATED not in self.licence


def combined(items: Sequence[PartLicence]) -> str:
    """The licence of a model that these make up, in one line; if they differ, by part."""
    parts: dict[str, list[str]] = {}
    for item in items:
        name = item.part if item.part in PARTS else f"{item.part} {item.source}".strip()
        parts.setdefault(str(item), []).append(name)
    if len(parts) < 2:
        return next(iter(parts), NOT_STATED)
    return "; ".join(
        f"{', '.join(dict.fromkeys(names))}: {licence}" for licence, names in parts.items()
    )


def markdown_table(items: Sequence[PartLicence]) -> list[str]:
    """The lines of a Markdown table of licences and an empty line; none without licences."""
    rows = [f"| {item.part} | {item.source} | {item} |" for item in items]
    return ["| part | from | licence |", "| --- | --- | --- |", *rows, ""] if rows else []


def licences_of_parts(
    items: Sequence[PartLicence], licence: str, name: str, parts: Iterable[str]
) -> tuple[PartLicence, ...]:
    """The licences of a model's ``parts`` and of everything that is attached to it.

    They are those that its card lists, else the one ``licence`` of the model called ``name``.
    """
    stated = licence if NOT_STATED not in licence else ""
    listed = items or [PartLicence(part, name, stated) for part in PARTS]
    present = {*parts}
    kept = (item for item in listed if item.part in present or item.part not in PARTS)
    return tuple(dict.fromkeys(kept))


def overridden(items: Sequence[PartLicence], hints: Mapping[str, Any]) -> list[PartLicence]:
    """Licences, replaced by those that the user states for all parts or for one.

    The hint ``licence`` is for all parts, ``licence.denoiser`` for the denoiser.
    """

    def stated(item: PartLicence) -> Any:
        for_all = hints.get("licence") if item.part in PARTS else None
        return hints.get(f"licence.{item.part}", for_all)

    licences = [stated(item) for item in items]
    return [
        item if licence is None else replace(item, licence=str(licence))
        for item, licence in zip(items, licences, strict=True)
    ]


def read_licence(metadata: Mapping[str, str], file: Path) -> str:
    """The licence that a file or folder of weights states; empty if none.

    It is looked for in the metadata, then in the model card of the hub's folder that it is in.
    """
    stated = (str(metadata.get(key, "")).strip() for key in METADATA_KEYS)
    cards = (front_matter_licence(card) for card in _cards(file))
    return next((licence for source in (stated, cards) for licence in source if licence), "")


def front_matter_licence(card: Path) -> str:
    """The licence in the front matter of a model card, by its name where it has one; empty if none.

    BadInput if the card is a link out of its folder.
    """
    if not card.is_file():
        return ""
    with within(card, card.parent).open("rb") as file:
        lines = file.read(1 << 16).decode(errors="replace").splitlines()[:200]
    if not lines or lines[0].strip() != "---":
        return ""
    head = lines[1 : lines.index("---", 1)] if "---" in lines[1:] else []
    pairs = (line.partition(":") for line in head)
    keys = ("license", "license_name")
    values = {key: _unquoted(value) for key, _, value in pairs if key in keys}
    return values.get("license_name") or values.get("license", "")


def warn_restricted(items: Sequence[PartLicence]) -> None:
    """Warn about each licence that forbids commercial use, of weights that are about to be used."""
    for item, names in _by_licence(items):
        if _RESTRICTED.search(str(item)):
            message = f"the licence of {names} restricts commercial use: {item}."
            warnings.warn(message, Note, stacklevel=3)


def warn_unstated(items: Sequence[PartLicence]) -> None:
    """Warn about weights whose licence nobody stated and from which others will be made."""
    for item, names in _by_licence(items):
        if not item.is_stated:
            message = (
                f"the licence of {names} is {item}: if you know it, state it with --hint licence=…"
            )
            warnings.warn(message, Note, stacklevel=3)


def _by_licence(items: Sequence[PartLicence]) -> Iterator[tuple[PartLicence, str]]:
    """One item of each licence, and the names of the files or parts that are under it."""
    for item in {str(item): item for item in items}.values():
        same = (other for other in items if str(other) == str(item))
        yield item, ", ".join(dict.fromkeys(other.source or other.part for other in same))


def _cards(file: Path) -> Iterator[Path]:
    """The model card of a folder; that of a file if its folder was downloaded from the hub."""
    if file.is_dir():
        yield file / "README.md"
        return
    for folder in file.parents:
        if folder.parent.name == "snapshots" or (folder / ".cache" / "huggingface").is_dir():
            yield folder / "README.md"


def _unquoted(value: str) -> str:
    value = value.strip()
    if value[:1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            pass
    return value.strip("\"'")
