"""Models in files: ``load`` and ``read`` what the user has, ``save`` for others to load.

The way of a load: find the paths (``locate``, ``hub``); for a model folder of ours, ``native``;
for files of other programs, detect their parts (``parts``), decide what they are together
(``plan``) and build it (``assembly``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.checkpoints.locate import is_foreign, local_path, native_folder
from safelight.errors import BadInput, unknown
from safelight.governance.licences import overridden, warn_restricted, warn_unstated

if TYPE_CHECKING:
    from safelight.model import LatentDiffusion
    from safelight.weights.memory import LoadOptions
    from safelight.weights.progress import ProgressCallback

PARTS = ("autoencoder", "conditioner", "denoiser", "process", "image_encoder")
FORMATS = ("native", "single-file", "diffusers")


def load(
    source: str | Path | Sequence[str | Path] = "stickers",
    device: str = "auto",
    precision: str = "auto",
    hints: Mapping[str, Any] | None = None,
    progress: "ProgressCallback | None" = None,
) -> "LatentDiffusion":
    """Return a model, ready to use on a device and in a precision (auto, fp32 or bf16).

    ``source`` is the name of an embedded model, a model folder, a run folder, a file or folder of
    another program, or a model on the hub (``owner/name``, ``owner/name@revision``,
    ``owner/name:file``). Several sources make one model together: a file may hold one part only.
    ``hints`` state what files do not, as ``{"prediction": "v"}`` (``checkpoints.hints.HINTS``).
    ``progress`` is called with the progress of what takes more than a second: what is being done,
    megabytes done, megabytes in all, and the rate. Raises BadInput if there is no such model, if a
    file is incomplete or if it belongs to no known family.
    """
    from safelight.runtime import device_of, dtype_of, prepare
    from safelight.weights.memory import LoadOptions

    place = device_of(device)
    options = LoadOptions(dtype_of(precision, place), channels_last=place.type == "cpu")
    model = read(source, hints, progress, options)
    warn_restricted(model.licences)
    return prepare(model, device, precision)


def read(
    source: str | Path | Sequence[str | Path],
    hints: Mapping[str, Any] | None = None,
    progress: "ProgressCallback | None" = None,
    options: "LoadOptions | None" = None,
) -> "LatentDiffusion":
    """Return a model as it is in its files; as ``load``, but not prepared for a device.

    Weights keep the precision of the files unless ``options`` say otherwise.
    """
    from safelight.weights.memory import AS_STORED
    from safelight.weights.progress import no_progress

    hints, how = hints or {}, (options or AS_STORED, progress or no_progress)
    sources = [source] if isinstance(source, str | Path) else source
    paths = [local_path(item) for item in sources]
    foreign = [path for path in paths if is_foreign(path)]
    licences = {key: value for key, value in hints.items() if key.startswith("licence")}
    if hints and not foreign and len(licences) < len(hints):
        raise BadInput(
            "hints are for the files of other programs, "
            f"got {', '.join(hints)} for {', '.join(map(str, paths))}."
        )
    models = [_read_native(path, licences, *how) for path in paths if path not in foreign]
    if foreign:
        from safelight.checkpoints.assembly import assemble
        from safelight.checkpoints.plan import plan_load

        models.append(assemble(plan_load(foreign, hints), *how))
    if not models:
        raise BadInput("wanted at least one model or file, got none.")
    return models[0] if len(models) == 1 else _combined(models)


def save(
    model: "LatentDiffusion",
    folder: str | Path,
    layout: str = "native",
    progress: "ProgressCallback | None" = None,
) -> None:
    """Write a model: a native folder, one safetensors file, or a folder in diffusers' layout.

    The licences of its parts are written with it, with a warning where nobody stated one.
    ``progress`` is called with the progress, as in ``load``.

    Raises BadInput if the layout is unknown or cannot hold the model or what is attached to it
    (control, image prompts), or if something else is in the way.
    """
    from safelight.checkpoints.detach import require_detached
    from safelight.weights.progress import no_progress

    if layout not in FORMATS:
        raise unknown("layout", layout, FORMATS)
    require_detached(model)
    warn_unstated(model.licences)
    path, progress = Path(folder), progress or no_progress
    if layout == "native":
        from safelight.checkpoints.native import write_model

        write_model(model, path, progress)
    elif layout == "single-file":
        from safelight.checkpoints.single_file import write_single_file

        write_single_file(model, path, progress)
    else:
        from safelight.checkpoints.diffusers_writing import write_diffusers_folder

        write_diffusers_folder(model, path, progress)


def _read_native(
    path: Path, licences: Mapping[str, Any], options: "LoadOptions", progress: "ProgressCallback"
) -> "LatentDiffusion":
    """A model in a folder of ours, under the licences that the user states."""
    from safelight.card import licensed
    from safelight.checkpoints.native import read_model

    model = read_model(native_folder(path), options, progress)
    if not licences:
        return model
    return replace(model, card=licensed(model.card, overridden(model.licences, licences)))


def _combined(models: Sequence["LatentDiffusion"]) -> "LatentDiffusion":
    """One model of several: the parts of later ones replace those of earlier ones."""
    from safelight.card import licensed
    from safelight.files import digest

    result = models[0]
    for model in models[1:]:
        new = {name: part for name in PARTS if (part := vars(model)[name]) is not None}
        kept = [licence for licence in result.licences if licence.part not in new]
        result = replace(result, **new, card=licensed(result.card, [*kept, *model.licences]))
    cards = [model.card for model in models]
    hashes = [card.hash or card.origin.get("fingerprint", "") for card in cards]
    files = [file for card in cards for file in card.origin.get("files", [card.name])]
    origin = {**result.card.origin, "files": files, "fingerprint": digest(hashes)}
    return replace(result, card=replace(result.card, hash="", origin=origin))
