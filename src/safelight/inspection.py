"""What a file or folder is: the parts of a model by headers alone, the state of a run, the recipe
of a picture."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from safelight import old_names
from safelight.checkpoints.locate import is_foreign, native_folder
from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.checkpoints.plan import LoadPlan
    from safelight.config import Slot
    from safelight.layouts.detection import DetectedPart

PICTURES = (".png", ".jpg", ".jpeg", ".webp")

CONDITIONING = {
    "text_width": "tokens",
    "vector_width": "vector",
    "classes": "classes",
    "extra_channels": "channels",
    "guidance": "guidance",
}
"""What a denoiser is conditioned on, by the fields of its configuration."""


def inspect(source: str | Sequence[str], hints: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Facts about a model, weights, a run or a picture, as JSON values; BadInput for anything else.

    Several sources are files that make one model together.
    """
    sources = [source] if isinstance(source, str) else list(source)
    if len(sources) > 1:
        return _foreign_model([foreign_path(name) for name in sources], hints)
    path = Path(sources[0])
    if path.suffix.lower() in PICTURES and path.is_file():
        return {"what": "picture", **_picture(path)}
    if path.is_file() and (facts := _attachment(path)) is not None:
        return facts
    if is_foreign(path):
        return _foreign_model([path], hints)
    run = _run(path)
    if run and not (path / "model" / "config.json").exists():
        return {"what": "run", "run": run}
    model = _native_model(native_folder(sources[0]))
    return {"what": "model", **model, **({"run": run} if run else {})}


def foreign_path(source: str) -> Path:
    """The path of weights of another program, of which several make one model; else BadInput."""
    if is_foreign(path := Path(source)):
        return path
    raise BadInput(
        f"{source!r} is no file or folder of weights of another program; "
        "several of these are one model."
    )


def show(facts: dict[str, Any], console: Console) -> None:
    """Print the facts for people."""
    if facts["what"] == "picture":
        recipe = facts.get("recipe") or facts["metadata"]
        console.print_json(json.dumps(recipe, ensure_ascii=False))
    if facts["what"] in ("adapter", "embeddings"):
        for name, value in facts.items():
            if isinstance(value, dict):
                value = [f"{key} {item}" for key, item in value.items()]
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            if text != "":
                console.print(f"{name}: {text}", markup=False, soft_wrap=True)
    if facts["what"] == "model":
        _show_model(facts, console)
    if "run" in facts:
        console.print(_line("run", facts["run"]), soft_wrap=True)


def _show_model(facts: dict[str, Any], console: Console) -> None:
    card = facts["card"]
    origin = card["origin"]
    height, width = card["size"]
    summary = f"{width}×{height} pixels, licence: {card['licence']}"
    console.print(f"[bold]{escape(card['name'])}[/]  {escape(summary)}", soft_wrap=True)
    if "fingerprint" in origin:
        console.print(f"fingerprint: {origin['fingerprint']}")
    if "title" in facts:
        console.print(f"family: {facts['title']} ({facts['family']})")
    console.print(_parts_table(facts["parts"]))
    for name in ("schedule", "prediction"):
        if name in facts:
            console.print(_line(name, facts[name]), soft_wrap=True)
    if conditioning := facts.get("conditioning"):
        names = [
            name if value is True else f"{name} ({value:,})" for name, value in conditioning.items()
        ]
        console.print(f"conditioning: {', '.join(names)}")
    settings = {key: _option(value) for key, value in card["settings"].items() if value is not None}
    if settings:
        console.print(_line("settings", settings), soft_wrap=True)
    if lacking := origin.get("lacking"):
        files = {name: f"(such as {file})" for name, file in lacking.items()}
        console.print(_line("lacking", files), soft_wrap=True)
    if assumed := origin.get("assumed"):
        console.print(f"{_line('assumed', assumed)} (state it with --hint if it is otherwise)")
    for data in card["data"]:
        console.print(_line("trained on", data), soft_wrap=True)


def _parts_table(parts: Mapping[str, dict[str, Any]]) -> Table:
    table = Table("part", "kind", "parameters", "precision", "MB", box=None, pad_edge=False)
    for name, part in parts.items():
        size = f"{part['bytes'] / 1e6:.1f}"
        table.add_row(name, part["kind"], f"{part['parameters']:,}", part["precision"], size)
    return table


def _line(title: str, facts: Mapping[str, Any]) -> str:
    return f"{title}: {', '.join(f'{key} {value}' for key, value in facts.items())}"


def _option(value: Any) -> Any:
    """A slot's mapping as on the command line."""
    if not isinstance(value, Mapping):
        return value
    options = ",".join(f"{key}={item}" for key, item in value.items() if key != "kind")
    return f"{value['kind']}:{options}" if options else value["kind"]


def _picture(path: Path) -> dict[str, Any]:
    """The recipe in a picture of ours, or the metadata in one of another program."""
    from safelight.media.foreign_metadata import read_foreign
    from safelight.media.pictures import read_recipe

    if (recipe := read_recipe(path)) is not None:
        return {"recipe": recipe}
    if (metadata := read_foreign(path)) is not None:
        return {"metadata": metadata}
    raise BadInput(
        f"{str(path)!r} is a picture that does not say how it was made: "
        "it was edited, or its program does not tell."
    )


def _attachment(path: Path) -> dict[str, Any] | None:
    """The facts of an adapter or of embeddings; None for any other file."""
    from safelight.attachments.identify import identify
    from safelight.weights.files import open_weights

    return identify(open_weights(path), path.stem)


def _foreign_model(paths: Sequence[Path], hints: Mapping[str, Any] | None) -> dict[str, Any]:
    """The facts of a model in the files of other programs."""
    from safelight.checkpoints.plan import plan_load

    return {"what": "model", **_plan(plan_load(paths, hints or {}))}


def _plan(plan: "LoadPlan") -> dict[str, Any]:
    """The facts of a planned load, by the names of a model folder's configuration."""
    from safelight.checkpoints.native_config import PROCESS
    from safelight.config import dump

    encoders = {f"text encoder {number}": part for number, part in enumerate(plan.encoders, 1)}
    parts = {**plan.parts, **encoders}
    facts: dict[str, Any] = {}
    if plan.family:
        facts |= {"family": plan.family.name, "title": plan.family.title}
    facts["parts"] = {name: _foreign_part(part) for name, part in parts.items()}
    if plan.process:
        facts |= {name: slot.write(vars(plan.process)[name]) for name, slot in PROCESS.items()}
    if "denoiser" in plan.parts:
        config = vars(plan.parts["denoiser"].config)
        facts["conditioning"] = {
            name: config[field] for field, name in CONDITIONING.items() if config.get(field)
        }
    return {**facts, "card": dump(plan.card)}


def _foreign_part(part: "DetectedPart") -> dict[str, Any]:
    """The facts of one part in a file of another program."""
    from safelight.config import dump

    mapping = part.layout.table(part.config)
    names = [name for name in part.weights if not mapping.ignores(name)]
    shapes, types = part.weights.shapes, part.weights.types
    return {
        "kind": part.kind,
        "layout": part.layout.name,
        "config": dump(part.config),
        "parameters": sum(prod(shapes[name]) for name in names),
        "precision": _precision(types[name] for name in names),
        "bytes": part.weights.bytes,
        "where": part.where,
        "fingerprint": part.weights.fingerprint,
    }


def _native_model(folder: Path) -> dict[str, Any]:
    """The facts of a model in a folder of ours."""
    from safelight.card import Card
    from safelight.checkpoints.native_config import PARTS, PROCESS, read_config
    from safelight.config import dump, read

    config = read_config(folder)
    parts = {
        name: _native_part(slot, config[name], folder / f"{name}.safetensors")
        for name, slot in PARTS.items()
        if name in config
    }
    process = {
        name: slot.write(slot.read(config[name]))
        for name, slot in PROCESS.items()
        if name in config
    }
    return {"parts": parts, **process, "card": dump(read(Card, config.get("card", {}), "card"))}


def _native_part(slot: "Slot", options: Any, file: Path) -> dict[str, Any]:
    """The facts of one part in a folder of ours; BadInput if a parameter is missing."""
    import torch

    from safelight.config import kind_of
    from safelight.weights.files import open_weights

    config = slot.read(options)
    with torch.device("meta"):  # the names of its parameters without their memory
        names = [name for name, _ in config.build().named_parameters()]
    weights = open_weights(file)
    current = old_names.TABLE.tensors(old_names.place(config), weights, names)
    shapes = {current[name]: shape for name, shape in weights.shapes.items()}
    types = {current[name]: kind for name, kind in weights.types.items()}
    if missing := [name for name in names if name not in shapes]:
        raise BadInput(
            f"{file.parent.name}/{file.name} does not fit its configuration: "
            f"{missing[0]} is missing."
        )
    return {
        "kind": kind_of(config),
        "config": slot.write(config),
        "parameters": sum(prod(shapes[name]) for name in names),
        "precision": _precision(types[name] for name in names),
        "bytes": file.stat().st_size,
    }


def _precision(types: Iterable[str]) -> str:
    """The types of tensors, the most frequent first."""
    return " and ".join(name for name, _ in Counter(types).most_common())


def _run(folder: Path) -> dict[str, Any] | None:
    """How far a run is; None if the folder is none."""
    if not (folder / "origin.json").is_file():
        return None
    config = _recipe(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    latest: dict[str, Any] = {}
    for line in lines:
        if line.endswith("}"):  # the last may be incomplete
            latest |= json.loads(line)
    updates, objective = config["loop"]["updates"], config["objective"]["kind"]
    return {"updates": updates, "objective": objective, **latest}


def _recipe(tree: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a run, its outer tables by today's names."""
    recipe = old_names.TABLE.options("training.recipe.Recipe", tree)
    recipe["loop"] = old_names.TABLE.options("training.recipe.Loop", recipe["loop"])
    recipe["objective"] = old_names.TABLE.slot("training.objectives", recipe["objective"])
    return recipe
