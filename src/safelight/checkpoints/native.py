"""The native folder: ``config.json``, a safetensors file for each part, ``README.md`` (the model
card) and ``manifest.json`` (hashes)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from safelight.card import Card
from safelight.checkpoints.json_files import read_json, write_json
from safelight.checkpoints.native_config import FORMAT, PARTS, PROCESS, read_config
from safelight.checkpoints.state_dicts import load_strictly
from safelight.config import Slot, dump, read
from safelight.diffusion.process import Process
from safelight.errors import BadInput
from safelight.files import sha256, writing_folder
from safelight.governance.licences import markdown_table
from safelight.model import LatentDiffusion
from safelight.weights.files import Weights, open_weights
from safelight.weights.memory import AS_STORED, LoadOptions, at_once
from safelight.weights.meta import meta_init
from safelight.weights.progress import ByteProgress, ProgressCallback, no_progress
from safelight.weights.writing import size, write_tensors


def read_model(
    folder: Path, options: LoadOptions = AS_STORED, progress: ProgressCallback = no_progress
) -> LatentDiffusion:
    """The model in a native folder. Every file is checked against the manifest."""
    config = read_config(folder)
    names = [name for name in PARTS if name in config]
    _check_hashes(folder, ["config.json", *(f"{name}.safetensors" for name in names)], progress)
    weights = {name: open_weights(folder / f"{name}.safetensors") for name in names}
    total = sum(part.bytes for part in weights.values())
    options = replace(options, count=ByteProgress("reading", total, progress))
    parts: dict[str, Any] = {
        name: _build(
            PARTS[name],
            config[name],
            replace(weights[name], reading=options),
            f"{folder.name}/{name}.safetensors",
        )
        for name in names
    }
    process = None
    if all(name in config for name in PROCESS):
        process = Process(**{name: slot.read(config[name]) for name, slot in PROCESS.items()})
    card = read(Card, config.get("card", {}), "card")
    card = replace(card, hash=sha256(folder / "manifest.json"))
    return LatentDiffusion(**parts, process=process, card=card)


def write_model(
    model: LatentDiffusion, folder: Path, progress: ProgressCallback = no_progress
) -> None:
    """Write the folder under a temporary name, then move it into place.

    It may replace an older model, but nothing else: BadInput if the folder holds other files.
    """
    if model.image_encoder is not None:
        raise BadInput(
            "an image encoder has no layout of ours: write it as diffusers or single-file."
        )
    _require_free(folder)
    parts = {name: part for name in PARTS if (part := vars(model)[name]) is not None}
    config: dict[str, Any] = {"format": FORMAT}
    config |= {name: PARTS[name].write(part.config) for name, part in parts.items()}
    if model.process:
        config |= {name: slot.write(vars(model.process)[name]) for name, slot in PROCESS.items()}
    with writing_folder(folder) as temporary:
        states = {name: part.state_dict() for name, part in parts.items()}
        count = ByteProgress("writing", sum(map(size, states.values())), progress)
        for name, state in states.items():
            write_tensors(state, temporary / f"{name}.safetensors", count=count)
        card = dump(replace(model.card, hash=""))
        write_json(temporary / "config.json", config | {"card": card})
        readme = model_card(model.card, parts)
        (temporary / "README.md").write_text(readme, encoding="utf-8")
        hashes = _hashes_of(sorted(temporary.iterdir()), progress)
        write_json(temporary / "manifest.json", {"sha256": hashes})


def model_card(card: Card, parts: Mapping[str, nn.Module]) -> str:
    """The model card as Markdown."""
    lines = [f"# {card.name}", "", card.summary, "", f"Licence: {card.licence}", ""]
    lines += markdown_table(card.licences)
    lines += ["| part | kind | parameters |", "| --- | --- | --- |"]
    for name, part in parts.items():
        kind = PARTS[name].write(vars(part)["config"])["kind"]
        lines.append(f"| {name} | {kind} | {sum(p.numel() for p in part.parameters()):,} |")
    height, width = card.size
    lines += ["", f"Native size: {width}×{height} pixels.", "", "## Training data", ""]
    for data in card.data:
        facts = (f"{key}: {_joined(value)}" for key, value in data.items() if value)
        lines.append(f"- {'; '.join(facts)}")
    return "\n".join(lines) + "\n"


def _joined(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _build(slot: Slot, config: Any, weights: Weights, where: str) -> nn.Module:
    """A part with its weights."""
    module: nn.Module = meta_init(slot.read(config).build)
    tensors = dict(at_once(lambda name: (name, weights[name]), weights))
    load_strictly(module, tensors, where, assign=True)
    return module


def _require_free(folder: Path) -> None:
    """BadInput if a folder holds anything but an older model."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{str(folder)!r} is a file; wanted a folder to save the model in.")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    ours = {"manifest.json", *_manifest(folder)} if "manifest.json" in names else set()
    if others := sorted(names - ours):
        more = " …" if len(others) > 3 else ""
        raise BadInput(
            f"{str(folder)!r} holds more than a model ({', '.join(others[:3])}{more}); "
            "save to a folder that is new or empty."
        )


def _manifest(folder: Path) -> dict[str, str]:
    """The hashes that the manifest lists, by file name."""
    hashes = read_json(folder / "manifest.json").get("sha256")
    if not isinstance(hashes, dict):
        raise BadInput(f"{folder.name}/manifest.json holds no hashes; get the folder again.")
    return hashes


def _hashes_of(files: Sequence[Path], progress: ProgressCallback) -> dict[str, str]:
    """The hash of each file, by its name."""
    count = ByteProgress("hashing", sum(file.stat().st_size for file in files), progress)
    return {file.name: sha256(file, count) for file in files}


def _check_hashes(folder: Path, required: Sequence[str], progress: ProgressCallback) -> None:
    """BadInput if a file is missing from the manifest or the folder, or has another hash."""
    hashes = _manifest(folder)
    for name in required:
        if name not in hashes:
            raise BadInput(
                f"{folder.name}/manifest.json has no hash of {name}; get the folder again."
            )
    for name in hashes:
        if not (folder / name).is_file():
            raise BadInput(f"{folder.name} is not whole: {name} is missing; get the folder again.")
    for name, actual in _hashes_of([folder / name for name in hashes], progress).items():
        if actual != hashes[name]:
            raise BadInput(
                f"{folder.name}/{name} is corrupt: its hash is not the manifest's; "
                "get the folder again."
            )
