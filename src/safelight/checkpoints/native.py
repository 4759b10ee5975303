"""The native folder: ``config.json``, one safetensors a part, ``README.md`` (the card), ``manifest.json`` (hashes)."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from safelight import old_names
from safelight.config import Slot, dump, read
from safelight.diffusion.process import Process
from safelight.errors import BadInput, unknown
from safelight.files import digest, sha256, writing_folder
from safelight.governance.licences import markdown_table
from safelight.model import Card, LatentDiffusion
from safelight.weights.files import Weights, open_weights
from safelight.weights.memory import AS_STORED, Reading, at_once
from safelight.weights.meta import hollow
from safelight.weights.progress import Counted, Report, unheard
from safelight.weights.writing import size, write_tensors

T = TypeVar("T")
FORMAT = 1
LONGEST = 16 << 20  # bytes of JSON
PARTS = {
    "autoencoder": Slot("autoencoders"),
    "conditioner": Slot("conditioners"),
    "denoiser": Slot("denoisers"),
}
PROCESS = {"schedule": Slot("diffusion.schedule"), "prediction": Slot("diffusion.prediction")}


def write_model(model: LatentDiffusion, folder: Path, report: Report = unheard) -> None:
    """Write the folder aside and put it in place when whole, of an older model or of nothing.

    Raises BadInput if something else is in the way: what a folder holds besides a model would be lost.
    """
    if model.image_encoder is not None:
        raise BadInput(
            "an image encoder has no layout of ours: write it as diffusers or single-file."
        )
    _check_free(folder)
    parts = {name: part for name in PARTS if (part := vars(model)[name]) is not None}
    config: dict[str, Any] = {"format": FORMAT}
    config |= {name: PARTS[name].write(part.config) for name, part in parts.items()}
    if model.process:
        config |= {name: slot.write(vars(model.process)[name]) for name, slot in PROCESS.items()}
    with writing_folder(folder) as aside:
        states = {name: part.state_dict() for name, part in parts.items()}
        count = Counted("writing", sum(map(size, states.values())), report)
        for name, state in states.items():
            write_tensors(state, aside / f"{name}.safetensors", count=count)
        write_json(aside / "config.json", config | {"card": dump(replace(model.card, hash=""))})
        (aside / "README.md").write_text(describe(model.card, parts), encoding="utf-8")
        hashes = _hashed(sorted(aside.iterdir()), report)
        write_json(aside / "manifest.json", {"sha256": hashes})


def read_model(
    folder: Path, reading: Reading = AS_STORED, report: Report = unheard
) -> LatentDiffusion:
    """The model in a native folder. Every file is checked against the manifest."""
    config = read_config(folder)
    _check_whole(
        folder,
        ["config.json", *(f"{name}.safetensors" for name in PARTS if name in config)],
        report,
    )
    weights = {
        name: open_weights(folder / f"{name}.safetensors") for name in PARTS if name in config
    }
    reading = replace(
        reading, count=Counted("reading", sum(one.bytes for one in weights.values()), report)
    )
    parts: dict[str, Any] = {
        name: _part(
            PARTS[name],
            config[name],
            replace(one, reading=reading),
            f"{folder.name}/{name}.safetensors",
        )
        for name, one in weights.items()
    }
    process = None
    if all(name in config for name in PROCESS):
        process = Process(**{name: slot.read(config[name]) for name, slot in PROCESS.items()})
    card = replace(
        read(Card, config.get("card", {}), "card"), hash=sha256(folder / "manifest.json")
    )
    return LatentDiffusion(**parts, process=process, card=card)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a native folder: the parts, the process and the card, of a format that is known."""
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise BadInput(
            f"{folder.name}: wanted a model folder of format {FORMAT}, got {config.get('format')!r}; "
            "update Safelight or save the model again."
        )
    known = {"format", "card", *PARTS, *PROCESS}
    for key in config:
        if key not in known:
            raise unknown(f"key in {folder.name}/config.json:", key, known)
    return config


def fingerprint(part: nn.Module) -> str:
    """One hash of what a part's state dict holds: names, shapes and values.

    The names are those that the tensors had at first, so that runs and caches still know a part after a renaming.
    """
    where = old_names.place(vars(part).get("config"))
    state = {old_names.TABLE.first(where, name): value for name, value in part.state_dict().items()}
    return digest(
        piece
        for name in sorted(state)
        for piece in (
            name,
            str(tuple(state[name].shape)),
            state[name].float().cpu().contiguous().numpy().tobytes(),
        )
    )


def renamed(module: nn.Module, state: Mapping[str, T], wanted: Collection[str]) -> dict[str, T]:
    """What a file holds for a module, by today's names of those that are wanted."""
    names = old_names.TABLE.tensors(old_names.place(vars(module).get("config")), state, wanted)
    return {names[name]: value for name, value in state.items()}


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], where: str, assign: bool = False
) -> None:
    """Load a whole state dict; BadInput lists missing, unexpected and misshapen names.

    ``assign``: the module takes the tensors themselves, in their memory and precision, instead of their values.
    """
    wanted = module.state_dict()
    state = renamed(module, state, wanted)
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not expected" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, wanted {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and not name.endswith("_extra_state") and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" … and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise BadInput(f"{where} does not fit its configuration: {'; '.join(problems[:4])}{more}.")
    module.load_state_dict(dict(state), assign=assign)


def describe(card: Card, parts: Mapping[str, nn.Module]) -> str:
    """The model card as Markdown."""
    lines = [f"# {card.name}", "", card.summary, "", f"Licence: {card.licence}", ""]
    lines += markdown_table(card.licences)
    lines += ["| part | kind | parameters |", "| --- | --- | --- |"]
    for name, part in parts.items():
        kind = PARTS[name].write(vars(part)["config"])["kind"]
        lines.append(f"| {name} | {kind} | {sum(p.numel() for p in part.parameters()):,} |")
    lines += ["", f"Native size: {card.size[1]}×{card.size[0]} pixels.", "", "## Training data", ""]
    lines += [
        f"- {'; '.join(f'{key}: {_listed(value)}' for key, value in one.items() if value)}"
        for one in card.data
    ]
    return "\n".join(lines) + "\n"


def _listed(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _part(slot: Slot, config: Any, weights: Weights, where: str) -> nn.Module:
    module: nn.Module = hollow(slot.read(config).build)
    load_strictly(
        module, dict(at_once(lambda name: (name, weights[name]), weights)), where, assign=True
    )
    return module


def _hashes(folder: Path) -> dict[str, str]:
    hashes = read_json(folder / "manifest.json").get("sha256")
    if not isinstance(hashes, dict):
        raise BadInput(f"{folder.name}/manifest.json holds no hashes; get the folder again.")
    return hashes


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{str(folder)!r} is a file; wanted a folder to save the model in.")
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    ours = {"manifest.json", *_hashes(folder)} if "manifest.json" in there else set()
    if others := sorted(there - ours):
        raise BadInput(
            f"{str(folder)!r} holds more than a model ({', '.join(others[:3])}{' …' if len(others) > 3 else ''}); "
            "save to a folder that is new or empty."
        )


def _hashed(files: Sequence[Path], report: Report) -> dict[str, str]:
    """The hash of each file, by its name."""
    count = Counted("hashing", sum(file.stat().st_size for file in files), report)
    return {file.name: sha256(file, count) for file in files}


def _check_whole(folder: Path, needed: Sequence[str], report: Report) -> None:
    hashes = _hashes(folder)
    for name in needed:
        if name not in hashes:
            raise BadInput(
                f"{folder.name}/manifest.json has no hash of {name}; get the folder again."
            )
    for name in hashes:
        if not (folder / name).is_file():
            raise BadInput(f"{folder.name} is not whole: {name} is missing; get the folder again.")
    for name, found in _hashed([folder / name for name in hashes], report).items():
        if found != hashes[name]:
            raise BadInput(
                f"{folder.name}/{name} is corrupt: its hash is not the manifest's; get the folder again."
            )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; BadInput if it cannot be read or holds something else."""
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST:,} bytes")
        value = json.loads(data.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path.parent.name}/{path.name} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path.parent.name}/{path.name}: wanted a JSON object.")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """An object as a JSON file that people can read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
