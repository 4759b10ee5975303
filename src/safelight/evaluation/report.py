"""Reports of the evaluation of an autoencoder: JSON, Markdown with a sheet, and a table."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from safelight.config import kind_of
from safelight.data.dataset import Dataset
from safelight.data.examples import Source, examine
from safelight.data.framing import Framing
from safelight.errors import BadInput
from safelight.evaluation.metric import Metric, rounded_to_8bit
from safelight.evaluation.reconstruction import Subset, comparison_sheet, measure, metrics
from safelight.files import write_text, writing
from safelight.governance.licences import combined
from safelight.media.pictures import to_images, to_pictures
from safelight.model import LatentDiffusion, module
from safelight.runtime.sizes import reconstruct
from safelight.runtime.tiled import Tiled
from safelight.types.networks import Autoencoder

ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """``facts`` are JSON values: model, data, framing, and the metrics by name (``measured``)."""

    facts: dict[str, Any]
    sheet: Image.Image


def reconstruction(
    model: LatentDiffusion, source: Source, size: int, count: int, progress: ProgressCallback
) -> Evaluation:
    """Evaluate the autoencoder on centre squares of ``size`` pixels of ``count`` pictures."""
    autoencoder, subset = _autoencoder(model), Subset(source, count)
    chosen: list[Metric] = metrics()
    examination = examine(subset, partial(progress, "reading"))
    dataset = Dataset(subset, examination, Framing(size), seed=0)
    measured = measure(autoencoder, dataset, chosen, partial(progress, "judging"))
    facts = {
        "model": _about(model),
        "data": {
            **subset.origin(),
            "judged": len(dataset),
            "broken": list(examination.broken),
            "digest": examination.digest,
        },
        "framing": f"centre square, its side scaled to {size} pixels (Lanczos)",
        "measured": measured,
    }
    return Evaluation(facts, comparison_sheet(autoencoder, dataset))


def reconstruct_picture(
    model: LatentDiffusion, picture: Image.Image, tile: int = 0
) -> tuple[Image.Image, dict[str, Any]]:
    """The reconstruction of a picture of any size, and the facts of how it was evaluation.

    It is made in tiles of ``tile`` pixels, or of the whole picture at once if that is 0.
    """
    autoencoder = _autoencoder(model)
    images = to_images([picture])
    through = Tiled(autoencoder, tile) if tile else autoencoder
    device = next((p.device for p in module(autoencoder).parameters()), images.device)
    restored = rounded_to_8bit(reconstruct(through, images.to(device)).cpu())
    facts = {"what": "reconstruction", "model": _about(model), "tile": tile}
    return to_pictures(restored)[0], facts


def write(evaluation: Evaluation, path: Path) -> None:
    """Write ``path`` as Markdown, the facts as .json and the sheet as .png next to it."""
    with writing(path.with_suffix(".png")) as aside:
        evaluation.sheet.save(aside, format="PNG")
    write_text(
        path.with_suffix(".json"), json.dumps(evaluation.facts, indent=2, ensure_ascii=False) + "\n"
    )
    write_text(path.with_suffix(".md"), _page(evaluation, path.with_suffix(".png").name))


def table(evaluation: Evaluation) -> Table:
    """The metrics as a table for the terminal."""
    table = Table("metric", "value", title=_title(evaluation.facts), title_justify="left")
    for name, value in evaluation.facts["measured"].items():
        table.add_row(name, f"{value:.4g}")
    return table


def _autoencoder(model: LatentDiffusion) -> Autoencoder:
    if model.autoencoder is None:
        raise BadInput(
            f"the model {model.card.name!r} has no autoencoder; load a model that holds one."
        )
    return model.autoencoder


def _about(model: LatentDiffusion) -> dict[str, Any]:
    part = module(_autoencoder(model))
    dtype = next((str(p.dtype).removeprefix("torch.") for p in part.parameters()), "float32")
    kind = kind_of(vars(part)["config"])
    licence = combined([item for item in model.licences if item.part == "autoencoder"])
    card = {"name": model.card.name, "hash": model.card.hash, "licence": licence}
    return {**card, "autoencoder": kind, "precision": dtype}


def _title(facts: dict[str, Any]) -> str:
    names = ", ".join(Path(path).name for path in facts["data"].get("paths", ()))
    model, count = facts["model"], facts["data"]["judged"]
    return f"{model['name']} ({model['autoencoder']}) on {count} of {names}"


def _page(evaluation: Evaluation, sheet: str) -> str:
    facts = evaluation.facts
    lines = [
        f"# {_title(facts)}",
        "",
        f"Pictures: {facts['framing']}. Precision: {facts['model']['precision']}.",
        "",
    ]
    lines += [f"Licence of the autoencoder: {facts['model']['licence']}.", ""]
    lines += ["| metric | value |", "| --- | --- |"]
    lines += [f"| {name} | {value:.4g} |" for name, value in facts["measured"].items()]
    lines += [line for name in facts["data"]["broken"] for line in ("", f"Left out: {name}")]
    lines += ["", "Original | reconstruction | difference ×4 about grey:", "", f"![sheet]({sheet})"]
    return "\n".join(lines) + "\n"
