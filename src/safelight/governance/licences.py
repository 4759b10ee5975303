"""Licences of weights: what was stated with them, what they rest on, and what has to be said aloud."""

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
KEYS = ("modelspec.license", "license", "licence")  # of a file's metadata
_RESTRICTED = re.compile(r"non[- ]?commercial|\bnc\b", re.I)


@dataclass(frozen=True)
class Licensed:
    """Weights and their licence. ``licence`` is empty where nobody stated one; ``usual`` is then that of the weights
    which are published as such, in the form "Stable Diffusion 1: CreativeML Open RAIL-M", where it is known.

    ``part`` is autoencoder, conditioner or denoiser, else what stands on a model: adapter, word, control, image prompt.
    """

    part: str
    source: str = ""  # the file, folder or model that they come from
    licence: str = ""
    usual: str = ""

    def __str__(self) -> str:
        if self.licence:
            return self.licence
        return f"{NOT_STATED} (public weights of {self.usual})" if self.usual else NOT_STATED

    @property
    def is_stated(self) -> bool:
        """Whether somebody stated it; what was saved without is not stated either."""
        return bool(self.licence) and NOT_STATED not in self.licence


def whole(items: Sequence[Licensed]) -> str:
    """The licence of what all of them make up, as one line: what they share, else each with its parts."""
    parts: dict[str, list[str]] = {}
    for one in items:
        name = one.part if one.part in PARTS else f"{one.part} {one.source}".strip()
        parts.setdefault(str(one), []).append(name)
    if len(parts) < 2:
        return next(iter(parts), NOT_STATED)
    return "; ".join(
        f"{', '.join(dict.fromkeys(names))}: {licence}" for licence, names in parts.items()
    )


def listed(items: Sequence[Licensed]) -> list[str]:
    """They as a table of Markdown, with an empty line behind it; nothing if there are none."""
    rows = [f"| {one.part} | {one.source} | {one} |" for one in items]
    return ["| part | from | licence |", "| --- | --- | --- |", *rows, ""] if rows else []


def known(
    items: Sequence[Licensed], licence: str, name: str, parts: Iterable[str]
) -> tuple[Licensed, ...]:
    """The licences of a model's ``parts``, and of all that stands on it: those that its card lists, else that one
    ``licence`` is stated for the model called ``name``."""
    stated = licence if NOT_STATED not in licence else ""
    listed = items or [Licensed(part, name, stated) for part in PARTS]
    here = {*parts}
    return tuple(dict.fromkeys(one for one in listed if one.part in here or one.part not in PARTS))


def restated(items: Sequence[Licensed], hints: Mapping[str, Any]) -> list[Licensed]:
    """They, as the user says of all (``licence``) or of a part (``licence.denoiser``) instead."""
    said = [
        hints.get(f"licence.{one.part}", hints.get("licence") if one.part in PARTS else None)
        for one in items
    ]
    return [
        one if licence is None else replace(one, licence=str(licence))
        for one, licence in zip(items, said, strict=True)
    ]


def stated(metadata: Mapping[str, str], file: Path) -> str:
    """The licence that a file or folder of weights states: in its metadata, else in the card of the hub's folder that
    it lies in; empty if none."""
    said = next((value for key in KEYS if (value := str(metadata.get(key, "")).strip())), "")
    return said or next((found for card in _cards(file) if (found := front_matter(card))), "")


def front_matter(card: Path) -> str:
    """The licence in the front matter of a model card, by its name where it has one; empty if none.

    BadInput if it is a link out of its folder.
    """
    if not card.is_file():
        return ""
    with within(card, card.parent).open("rb") as file:
        lines = file.read(1 << 16).decode(errors="replace").splitlines()[:200]
    if not lines or lines[0].strip() != "---":
        return ""
    head = lines[1 : lines.index("---", 1)] if "---" in lines[1:] else []
    pairs = (line.partition(":") for line in head)
    said = {key: _unquoted(value) for key, _, value in pairs if key in ("license", "license_name")}
    return said.get("license_name") or said.get("license", "")


def say_restricted(items: Sequence[Licensed]) -> None:
    """Say aloud, each once, which licences forbid commerce, of weights that are about to be used."""
    for one, which in _named(items):
        if _RESTRICTED.search(str(one)):
            warnings.warn(
                f"the licence of {which} restricts commercial use: {one}.", Note, stacklevel=3
            )


def say_unstated(items: Sequence[Licensed]) -> None:
    """Say aloud, each once, which licences nobody stated, of weights that others will be made of."""
    for one, which in _named(items):
        if not one.is_stated:
            what = (
                f"the licence of {which} is {one}: if you know it, state it with --hint licence=…"
            )
            warnings.warn(what, Note, stacklevel=3)


def _named(items: Sequence[Licensed]) -> Iterator[tuple[Licensed, str]]:
    """One of each licence, and the files or parts that are under it."""
    for one in {str(one): one for one in items}.values():
        yield (
            one,
            ", ".join(dict.fromkeys(it.source or it.part for it in items if str(it) == str(one))),
        )


def _cards(file: Path) -> Iterator[Path]:
    """The card of a folder; that of a file if its folder was downloaded from the hub."""
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
