"""What a file or folder is: a model's parts from headers alone, a run's state, a picture's
recipe."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from safelight import old_names
from safelight.attachments.identify import small_file
from safelight.checkpoints import is_foreign, locate
from safelight.checkpoints.assembly import Outline
from safelight.checkpoints.foreign import plan
from safelight.checkpoints.native import PARTS, PROCESS, read_config
from safelight.config import Slot, dump, kind_of, read
from safelight.errors import BadInput
from safelight.layouts.detection import Piece
from safelight.media.foreign_metadata import read_foreign
from safelight.media.pictures import read_recipe
from safelight.model import Card
from safelight.weights.files import open_weights

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def inspect(source: str | Sequence[str], hints: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Facts about a model, weights, a run or a picture, as JSON values. BadInput if it is none of
    them.

    Several sources are files that make one model together.
    """
    if not isinstance(source, str) and len(source) > 1:
        return {"what": "model", **_outline(plan([foreign(one) for one in source], hints or {}))}
    path = Path(source := source if isinstance(source, str) else source[0])
    if path.suffix.lower() in PICTURES and path.is_file():
        return {"what": "picture", **_picture(path)}
    if path.is_file() and (found := small_file(open_weights(path), path.stem)) is not None:
        return found
    if is_foreign(path):
        return {"what": "model", **_outline(plan([path], hints or {}))}
    run = _run(path)
    if run and not (path / "model" / "config.json").exists():
        return {"what": "run", "run": run}
    return {"what": "model", **_model(locate(source)), **({"run": run} if run else {})}


def foreign(source: str) -> Path:
    """A file or folder of other programs, of which several make one model; BadInput if it is
    another thing."""
    if is_foreign(path := Path(source)):
        return path
    raise BadInput(
        f"{source!r} is no file or folder of weights of another program; several of these are one model."
    )


def _picture(path: Path) -> dict[str, Any]:
    """The recipe in a picture of ours, or what another program says of one of its own."""
    if (recipe := read_recipe(path)) is not None:
        return {"recipe": recipe}
    if (told := read_foreign(path)) is not None:
        return {"made": told}
    raise BadInput(
        f"{str(path)!r} is a picture that does not say how it was made: it was edited, or its program does not tell."
    )


def show(found: dict[str, Any], console: Console) -> None:
    """Print the facts for people."""
    if found["what"] == "picture":
        console.print_json(json.dumps(found.get("recipe") or found["made"], ensure_ascii=False))
    if found["what"] in ("adapter", "words"):
        for name, value in found.items():
            several = (
                [f"{key} {one}" for key, one in value.items()] if isinstance(value, dict) else value
            )
            said = ", ".join(map(str, several)) if isinstance(several, list) else several
            if said not in ("", ()):
                console.print(f"{name}: {said}", markup=False, soft_wrap=True)
    if found["what"] == "model":
        _show_model(found, console)
    if "run" in found:
        console.print(_list("run", found["run"]), soft_wrap=True)


def _show_model(found: dict[str, Any], console: Console) -> None:
    card = found["card"]
    height, width = card["size"]
    told = f"{width}×{height} pixels, licence: {card['licence']}"
    console.print(f"[bold]{escape(card['name'])}[/]  {escape(told)}", soft_wrap=True)
    if "fingerprint" in card["origin"]:
        console.print(f"fingerprint: {card['origin']['fingerprint']}")
    if "title" in found:
        console.print(f"family: {found['title']} ({found['family']})")
    table = Table("part", "kind", "parameters", "precision", "MB", box=None, pad_edge=False)
    for name, part in found["parts"].items():
        size = f"{part['bytes'] / 1e6:.1f}"
        table.add_row(name, part["kind"], f"{part['parameters']:,}", part["precision"], size)
    console.print(table)
    for name in ("schedule", "prediction"):
        if name in found:
            console.print(_list(name, found[name]), soft_wrap=True)
    if hears := found.get("conditioning"):
        said = [name if one is True else f"{name} ({one:,})" for name, one in hears.items()]
        console.print(f"conditioning: {', '.join(said)}")
    if settings := {
        key: _plain(value) for key, value in card["settings"].items() if value is not None
    }:
        console.print(_list("settings", settings), soft_wrap=True)
    if lacking := card["origin"].get("lacking"):
        console.print(
            _list("lacking", {name: f"(such as {one})" for name, one in lacking.items()}),
            soft_wrap=True,
        )
    if assumed := card["origin"].get("assumed"):
        console.print(f"{_list('assumed', assumed)} (say otherwise with --hint)")
    for origin in card["data"]:
        console.print(_list("trained on", origin), soft_wrap=True)


def _list(title: str, facts: dict[str, Any]) -> str:
    return f"{title}: {', '.join(f'{key} {value}' for key, value in facts.items())}"


def _plain(value: Any) -> Any:
    """A slot's mapping in the words of the command line."""
    if not isinstance(value, Mapping):
        return value
    options = ",".join(f"{key}={one}" for key, one in value.items() if key != "kind")
    return f"{value['kind']}:{options}" if options else value["kind"]


def _model(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    parts = {
        name: _part(slot, config[name], folder / f"{name}.safetensors")
        for name, slot in PARTS.items()
        if name in config
    }
    process = {
        name: slot.write(slot.read(config[name]))
        for name, slot in PROCESS.items()
        if name in config
    }
    return {"parts": parts, **process, "card": dump(read(Card, config.get("card", {}), "card"))}


def _outline(found: Outline) -> dict[str, Any]:
    """The facts of what other programs wrote, in the words of a model folder's."""
    towers = {f"tower {number + 1}": one for number, one in enumerate(found.towers)}
    parts = {name: _piece(piece) for name, piece in (*found.pieces.items(), *towers.items())}
    process = {
        name: slot.write(vars(found.process)[name])
        for name, slot in PROCESS.items()
        if found.process
    }
    denoiser = found.pieces.get("denoiser")
    hears = {"conditioning": _conditioning(denoiser.config)} if denoiser else {}
    family = {"family": found.family.name, "title": found.family.title} if found.family else {}
    return {**family, "parts": parts, **process, **hears, "card": dump(found.card)}


HEARD = {  # the fields of denoisers that open a way in
    "text_width": "tokens",
    "vector_width": "vector",
    "classes": "classes",
    "extra_channels": "channels",
    "guidance": "guidance",
}


def _conditioning(config: object) -> dict[str, Any]:
    """What a denoiser of this configuration hears besides time: how wide, or how many."""
    return {name: vars(config)[key] for key, name in HEARD.items() if vars(config).get(key)}


def _piece(piece: Piece) -> dict[str, Any]:
    table = piece.layout.table(piece.config)
    names = [name for name in piece.weights if not table.ignores(name)]
    shapes, held = piece.weights.shapes, piece.weights.types
    types = Counter(held[name] for name in names)
    return {
        "kind": piece.kind,
        "layout": piece.layout.name,
        "config": dump(piece.config),
        "parameters": sum(prod(shapes[name]) for name in names),
        "precision": " and ".join(name for name, _ in types.most_common()),
        "bytes": piece.weights.bytes,
        "where": piece.where,
        "fingerprint": piece.weights.fingerprint,
    }


def _part(slot: Slot, given: Any, file: Path) -> dict[str, Any]:
    config = slot.read(given)
    with torch.device("meta"):  # the names of its parameters without their memory
        names = [name for name, _ in config.build().named_parameters()]
    weights = open_weights(file)
    held = old_names.TABLE.tensors(old_names.place(config), weights, names)
    shapes = {held[name]: shape for name, shape in weights.shapes.items()}
    types = {held[name]: one for name, one in weights.types.items()}
    if missing := [name for name in names if name not in shapes]:
        raise BadInput(
            f"{file.parent.name}/{file.name} does not fit its configuration: {missing[0]} is missing."
        )
    return {
        "kind": kind_of(config),
        "config": slot.write(config),
        "parameters": sum(prod(shapes[name]) for name in names),
        "precision": " and ".join(
            name for name, _ in Counter(types[name] for name in names).most_common()
        ),
        "bytes": file.stat().st_size,
    }


def _run(folder: Path) -> dict[str, Any] | None:
    if not (folder / "origin.json").is_file():
        return None
    config = _recipe(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    file = folder / "metrics.jsonl"
    lines = (
        [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        if file.exists()
        else []
    )
    latest: dict[str, Any] = {}
    for line in lines:
        latest |= line
    return {
        "updates": config["loop"]["updates"],
        "objective": config["objective"]["kind"],
        **latest,
    }


def _recipe(tree: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run, its outer tables with today's names."""
    found = old_names.TABLE.options("training.recipe.Recipe", tree)
    loop = old_names.TABLE.options("training.recipe.Loop", found["loop"])
    return {
        **found,
        "loop": loop,
        "objective": old_names.TABLE.slot("training.objectives", found["objective"]),
    }
