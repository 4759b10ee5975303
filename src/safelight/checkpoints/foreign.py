"""What other programs wrote: single files, several together, and folders of parts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safelight.checkpoints.assembly import Beside, Outline, assemble, outline, understood
from safelight.checkpoints.counted import Counted, Report, unheard
from safelight.checkpoints.diffusers_folder import read_folder, read_part
from safelight.checkpoints.pieces import EMA, Piece, pieces
from safelight.checkpoints.reading.memory import AS_STORED, Reading
from safelight.checkpoints.said import checked
from safelight.checkpoints.weights import Weights, open_weights
from safelight.errors import BadInput
from safelight.governance.licences import stated
from safelight.model import LatentDiffusion

MEANS = (EMA, "ema.")  # names of running means of weights
LONGEST = 100_000  # steps of a schedule's table
YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def find(paths: Sequence[Path], hints: Mapping[str, Any]) -> tuple[list[Piece], Beside]:
    """All parts in these files and folders, and what a folder says beside them. BadInput if one cannot be read.

    A lone autoencoder or text tower stands in for that of an earlier file.
    """
    found: list[Piece] = []
    beside = Beside()
    for path in paths:
        if path.is_file():
            weights = open_weights(path)
            parts = pieces(weights, path.name, hints, _ema(hints))
            beside = replace(beside, **_buffers(weights, path.name))
        elif (path / "model_index.json").is_file():
            parts, beside = read_folder(path, hints)
        else:
            parts = [read_part(path, hints)]
            if (part := parts[0]).part == "autoencoder":
                beside = replace(beside, scale=part.said.get("scaling_factor"), shift=part.said.get("shift_factor"))
        licensed = [replace(one, source=path.name, licence=stated(one.weights.metadata, path)) for one in parts]
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


def _buffers(weights: Weights, where: str) -> dict[str, Any]:
    """What the buffers of a training tell: the table of its schedule, and the scale that it measured of its latents."""
    inner = weights.under("state_dict.") or weights
    table, scale = inner.shapes.get("alphas_cumprod", ()), inner.shapes.get("scale_factor")
    found: dict[str, Any] = {"means": True} if any(name.startswith(MEANS) for name in inner) else {}
    if len(table) == 1 and 2 <= table[0] <= LONGEST:
        found["table"] = inner["alphas_cumprod"]
    return found | (checked({"scale": float(inner["scale_factor"])}, where) if scale in ((), (1,)) else {})


def read_foreign(
    paths: Sequence[Path], hints: Mapping[str, Any], reading: Reading = AS_STORED, report: Report = unheard
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
