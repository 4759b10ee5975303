"""The parts in files and folders of other programs, detected from headers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.checkpoints import diffusers_folder
from safelight.checkpoints.hints import wants_ema
from safelight.errors import BadInput
from safelight.governance.licences import read_licence
from safelight.layouts import training_metadata
from safelight.layouts.detection import DetectedPart, detect_parts, unwrapped
from safelight.layouts.training_metadata import TrainingMetadata
from safelight.settings import Settings
from safelight.weights.files import open_weights

if TYPE_CHECKING:
    from safelight.diffusion.process import Process


@dataclass(frozen=True)
class FolderMetadata:
    """What a folder or file states besides its weights; it overrides what the family usually has.

    ``process`` and ``settings`` come from a scheduler's configuration; ``scale`` and ``shift`` are
    those of the latents.
    """

    process: "Process | None" = None
    settings: Settings = field(default_factory=Settings)
    scale: float | None = None
    shift: float | None = None
    name: str = ""
    training: TrainingMetadata = field(default_factory=TrainingMetadata)


def find_parts(
    paths: Sequence[Path], hints: Mapping[str, Any]
) -> tuple[list[DetectedPart], FolderMetadata]:
    """All parts in these files and folders, and what they state besides.

    An autoencoder or text encoder that is alone in its file replaces that of an earlier file.
    BadInput if one cannot be read.
    """
    parts: list[DetectedPart] = []
    metadata = FolderMetadata()
    for path in paths:
        if not path.exists():
            raise BadInput(
                f"{str(path)!r} is not there; "
                "wanted a file of weights, or the folder of a model or a part."
            )
        if path.is_file():
            more, metadata = _in_file(path, hints, metadata)
        elif (path / "model_index.json").is_file():
            more, metadata = _in_model_folder(path, hints)
        else:
            more, metadata = _in_part_folder(path, hints, metadata)
        more = [
            replace(part, source=path.name, licence=read_licence(part.weights.metadata, path))
            for part in more
        ]
        parts = [*_without_replaced(parts, more), *more]
    return parts, metadata


def _in_file(
    path: Path, hints: Mapping[str, Any], metadata: FolderMetadata
) -> tuple[list[DetectedPart], FolderMetadata]:
    """The parts in one file of weights."""
    ema = wants_ema(hints)
    weights = unwrapped(open_weights(path), ema)
    parts = detect_parts(weights, path.name, hints, ema)
    parts = [
        replace(part, tokenizer=diffusers_folder.tokenizer_files(path.parent, "."))
        if part.part == "tower" and part.kind == "bert"  # its vocabulary does not ship with us
        else part
        for part in parts
    ]
    training = training_metadata.read(weights, path.name)
    if training != TrainingMetadata():
        scale = training.scale or metadata.scale
        metadata = replace(metadata, training=training, scale=scale)
    return parts, metadata


def _in_model_folder(
    path: Path, hints: Mapping[str, Any]
) -> tuple[list[DetectedPart], FolderMetadata]:
    """The parts of a folder with a ``model_index.json``, and its scheduler."""
    parts = diffusers_folder.read_parts(path, hints)
    process, settings = diffusers_folder.read_scheduler(path)
    config = next((part.declared for part in parts if part.part == "autoencoder"), {})
    metadata = FolderMetadata(
        process=process,
        settings=settings,
        scale=config.get("scaling_factor"),
        shift=config.get("shift_factor"),
        training=diffusers_folder.latent_statistics(config),
        name=path.name,
    )
    return parts, metadata


def _in_part_folder(
    path: Path, hints: Mapping[str, Any], metadata: FolderMetadata
) -> tuple[list[DetectedPart], FolderMetadata]:
    """The part in a folder of its own."""
    part = diffusers_folder.read_part(path, hints)
    if part.part == "autoencoder":
        metadata = replace(
            metadata,
            scale=part.declared.get("scaling_factor"),
            shift=part.declared.get("shift_factor"),
            training=diffusers_folder.latent_statistics(part.declared),
        )
    return [part], metadata


def _without_replaced(
    parts: Sequence[DetectedPart], more: Sequence[DetectedPart]
) -> list[DetectedPart]:
    """The parts of earlier files that a later file does not replace."""
    if len(more) == 1 and more[0].part == "autoencoder":
        return [part for part in parts if part.part != "autoencoder"]
    if len(more) == 1 and more[0].part == "tower":
        new = (more[0].part, more[0].config)
        return [part for part in parts if (part.part, part.config) != new]
    return list(parts)
