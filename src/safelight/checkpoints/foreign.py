"""What other programs wrote: single files, several together, and folders of parts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safelight.checkpoints.assembly import Beside, Outline, assemble, outline, understood
from safelight.checkpoints.diffusers_folder import read_folder, read_part, spread, words_in
from safelight.errors import BadInput
from safelight.governance.licences import read_licence
from safelight.layouts import training_metadata
from safelight.layouts.detection import Piece, pieces, unwrapped
from safelight.layouts.training_metadata import Marks
from safelight.model import LatentDiffusion
from safelight.weights.files import open_weights
from safelight.weights.memory import AS_STORED, Reading
from safelight.weights.progress import Counted, Report, unheard

YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def find(paths: Sequence[Path], hints: Mapping[str, Any]) -> tuple[list[Piece], Beside]:
    """All parts in these files and folders, and what a folder says beside them. BadInput if one cannot be read.

    A lone autoencoder or text tower stands in for that of an earlier file.
    """
    found: list[Piece] = []
    beside = Beside()
    for path in paths:
        if not path.exists():
            raise BadInput(
                f"{str(path)!r} is not there; wanted a file of weights, or the folder of a model or a part."
            )
        if path.is_file():
            weights = unwrapped(open_weights(path), _ema(hints))
            parts = [
                _with_words(one, path.parent)
                for one in pieces(weights, path.name, hints, _ema(hints))
            ]
            told = training_metadata.read(weights, path.name)
            if told != Marks():
                beside = replace(beside, marks=told, scale=told.scale or beside.scale)
        elif (path / "model_index.json").is_file():
            parts, beside = read_folder(path, hints)
        else:
            parts = [read_part(path, hints)]
            if (part := parts[0]).part == "autoencoder":
                scale, shift = part.said.get("scaling_factor"), part.said.get("shift_factor")
                beside = replace(beside, scale=scale, shift=shift, marks=spread(part.said))
        licensed = [
            replace(one, source=path.name, licence=read_licence(one.weights.metadata, path))
            for one in parts
        ]
        found = _with(found, licensed)
    return found, beside


def _with(found: Sequence[Piece], more: Sequence[Piece]) -> list[Piece]:
    """The parts of earlier files with those of one more."""
    (lone,) = more if len(more) == 1 else (None,)
    if lone is not None and lone.part == "autoencoder":
        found = [one for one in found if one.part != lone.part]
    if lone is not None and lone.part == "tower":
        found = [one for one in found if (one.part, one.config) != (lone.part, lone.config)]
    return [*found, *more]


def _with_words(one: Piece, folder: Path) -> Piece:
    """A tower whose words do not ship, with the list of them that lies beside its file."""
    return (
        replace(one, tokenizer=words_in(folder, "."))
        if one.part == "tower" and one.kind == "bert"
        else one
    )


def read_foreign(
    paths: Sequence[Path],
    hints: Mapping[str, Any],
    reading: Reading = AS_STORED,
    report: Report = unheard,
) -> LatentDiffusion:
    """The model that these files and folders hold together."""
    found = plan(paths, hints)
    return assemble(found.read_as(replace(reading, count=Counted("reading", found.bytes, report))))


def plan(paths: Sequence[Path], hints: Mapping[str, Any]) -> Outline:
    """What these files and folders hold together, from their headers alone."""
    hints = understood(hints)
    found, beside = find(paths, hints)
    return outline(found, hints, beside)


def _ema(hints: Mapping[str, Any]) -> bool:
    said = str(hints.get("ema", "no")).lower()
    if said not in YES:
        raise BadInput(f"hint ema: wanted yes or no, got {hints['ema']!r}.")
    return YES[said]
