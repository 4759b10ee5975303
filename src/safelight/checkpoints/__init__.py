"""Models in files: ``load`` from what the user has, ``save`` for others to load."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.errors import BadInput, unknown
from safelight.governance.licences import overridden, warn_restricted, warn_unstated

if TYPE_CHECKING:
    from safelight.model import Card, LatentDiffusion
    from safelight.weights.memory import Reading
    from safelight.weights.progress import Report

EMBEDDED = Path(__file__).parent.parent / "models"


def embedded() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))


def locate(source: str | Path) -> Path:
    """The native folder that ``source`` names: an embedded model, a model folder or a run folder."""
    path = Path(source)
    if str(source) in embedded():
        return EMBEDDED / str(source)
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file() and (folder / "manifest.json").is_file():
            return folder
    if path.is_dir():
        hint = "; its run has not saved a model yet" if (path / "metrics.jsonl").exists() else ""
        raise BadInput(
            f"{str(path)!r} holds no model: wanted config.json and manifest.json in it{hint}."
        )
    if path.is_file():
        raise BadInput(
            f"{str(path)!r} is a single file; wanted a model folder, a run folder or an embedded name."
        )
    if path.suffix or len(path.parts) > 1:
        raise BadInput(
            f"there is no file or folder {str(path)!r}; wanted one, or an embedded model: {embedded()[0]}."
        )
    raise unknown("model", str(source), embedded())


def load(
    source: str | Path | Sequence[str | Path] = "stickers",
    device: str = "auto",
    precision: str = "auto",
    hints: Mapping[str, Any] | None = None,
    report: "Report | None" = None,
) -> "LatentDiffusion":
    """A model by embedded name, model folder, run folder, from the files and folders of other programs, or from the hub
    (``owner/name``, ``owner/name@revision``, ``owner/name:file``).

    Several sources together make one model: a file may hold one part only. ``hints`` say what files cannot tell, as
    ``{"prediction": "v"}`` (``assembly.HINTS``). ``precision`` is auto, fp32 or bf16. What takes more than a second is
    told to ``report``: what, megabytes done, of how many, how fast. Raises BadInput if there is no such model, if a
    file is not whole, or fits no family.
    """
    from safelight.runtime import device_of, dtype_of, prepare
    from safelight.weights.memory import Reading

    where = device_of(device)
    reading = Reading(dtype_of(precision, where), channels_last=where.type == "cpu")
    model = read(source, hints, report, reading)
    warn_restricted(model.licences)
    return prepare(model, device, precision)


def read(
    source: str | Path | Sequence[str | Path],
    hints: Mapping[str, Any] | None = None,
    report: "Report | None" = None,
    reading: "Reading | None" = None,
) -> "LatentDiffusion":
    """The model as it is in its files, in their precision or as ``reading`` says; as ``load``, but not prepared."""
    from safelight.checkpoints.native import read_model
    from safelight.model import licensed
    from safelight.weights.memory import AS_STORED
    from safelight.weights.progress import unheard

    how = (reading or AS_STORED, report or unheard)
    sources = [_fetched(one) for one in ([source] if isinstance(source, str | Path) else source)]
    others = [Path(one) for one in sources if is_foreign(Path(one))]
    ours = [read_model(locate(one), *how) for one in sources if Path(one) not in others]
    licences = {key: value for key, value in (hints or {}).items() if key.startswith("licence")}
    if licences:
        ours = [
            replace(one, card=licensed(one.card, overridden(one.licences, licences)))
            for one in ours
        ]
    models = ours + ([_read_foreign(others, hints or {}, *how)] if others else [])
    if hints and not others and len(licences) < len(hints):
        raise BadInput(
            f"hints are for the files of other programs, got {', '.join(hints)} for {sources[0]}."
        )
    if not models:
        raise BadInput("wanted at least one model or file, got none.")
    whole = models[0]
    for one in models[1:]:  # a later source's parts stand in for those of an earlier one
        parts = ("autoencoder", "conditioner", "denoiser", "process", "image_encoder")
        replaced = {name: part for name in parts if (part := vars(one)[name]) is not None}
        kept = [each for each in whole.licences if each.part not in replaced]
        whole = replace(whole, **replaced, card=licensed(whole.card, [*kept, *one.licences]))
    return (
        whole
        if len(models) == 1
        else replace(whole, card=_joined(whole.card, [one.card for one in models]))
    )


def _joined(card: "Card", cards: Sequence["Card"]) -> "Card":
    """The card of a whole, of which no longer one hash is true but a fingerprint of all."""
    from safelight.files import digest

    known = [one.hash or one.origin.get("fingerprint", "") for one in cards]
    files = [file for one in cards for file in one.origin.get("files", [one.name])]
    return replace(
        card, hash="", origin={**card.origin, "files": files, "fingerprint": digest(known)}
    )


def is_foreign(path: Path) -> bool:
    """Whether a path is a file, or a folder in a layout of others."""
    return path.is_file() or (path / "model_index.json").is_file() or is_part(path)


def is_part(folder: Path) -> bool:
    """Whether a folder holds one part in diffusers' or transformers' layout."""
    return (
        (folder / "config.json").is_file()
        and not (folder / "manifest.json").is_file()
        and any(folder.glob("*.safetensors*"))
    )


def _read_foreign(
    paths: Sequence[Path], hints: Mapping[str, Any], reading: "Reading", report: "Report"
) -> "LatentDiffusion":
    from safelight.checkpoints.foreign import read_foreign

    return read_foreign(paths, hints, reading, report)


def _fetched(source: str | Path) -> str | Path:
    """A source that is here; what could only be a model on the hub is fetched from there."""
    if Path(source).exists() or str(source) in embedded():
        return source
    from safelight.checkpoints.hub import fetch, is_identifier

    return fetch(str(source)) if is_identifier(str(source)) else source


LAYOUTS = ("native", "single-file", "diffusers")


def save(
    model: "LatentDiffusion",
    folder: str | Path,
    layout: str = "native",
    report: "Report | None" = None,
) -> None:
    """Write a model: a native folder, one safetensors file of its family's layout, or a folder of diffusers' layout.

    The licences of its parts go with it; one that nobody stated is said aloud. What takes more than a second is told to
    ``report``: what, megabytes done, of how many, how fast.

    Raises BadInput if the dialect is unknown, cannot hold the model or what stands around it (control, image prompts),
    or something else is in the way.
    """
    from safelight.checkpoints.detach import require_detached
    from safelight.checkpoints.native import write_model
    from safelight.checkpoints.writing import write_folder, write_single
    from safelight.weights.progress import unheard

    writers = dict(zip(LAYOUTS, (write_model, write_single, write_folder), strict=True))
    if layout not in writers:
        raise unknown("layout", layout, LAYOUTS)
    require_detached(model)
    warn_unstated(model.licences)
    writers[layout](model, Path(folder), report or unheard)
