"""What was judged, how, and what came of it: as JSON, as Markdown with a sheet, as a table."""

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
from safelight.evaluation.metric import Metric, rounded
from safelight.evaluation.reconstruction import Some, compared, judge, metrics
from safelight.files import write_text, writing
from safelight.governance.licences import combined
from safelight.media.pictures import to_images, to_pictures
from safelight.model import LatentDiffusion, module
from safelight.runtime.sizes import reconstruct
from safelight.runtime.tiled import Tiled
from safelight.types.networks import Autoencoder

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Judged:
    """``facts`` are JSON values: the model, the data, how pictures were framed, and ``measured`` by name."""

    facts: dict[str, Any]
    sheet: Image.Image


def reconstruction(
    model: LatentDiffusion, source: Source, size: int, count: int, report: Report
) -> Judged:
    """Judge the model's autoencoder on up to ``count`` pictures, as centre squares of ``size`` pixels."""
    autoencoder, some = _autoencoder(model), Some(source, count)
    measures: list[Metric] = metrics()
    found = examine(some, partial(report, "reading"))
    dataset = Dataset(some, found, Framing(size), seed=0)
    measured = judge(autoencoder, dataset, measures, partial(report, "judging"))
    facts = {
        "model": _about(model),
        "data": {
            **some.origin(),
            "judged": len(dataset),
            "broken": list(found.broken),
            "digest": found.digest,
        },
        "framing": f"centre square, its side scaled to {size} pixels (Lanczos)",
        "measured": measured,
    }
    return Judged(facts, compared(autoencoder, dataset))


def reconstruct_picture(
    model: LatentDiffusion, picture: Image.Image, tile: int = 0
) -> tuple[Image.Image, dict[str, Any]]:
    """What comes back of a picture of any size, in tiles of ``tile`` pixels unless 0, and how it was made."""
    autoencoder = _autoencoder(model)
    images = to_images([picture])
    through = Tiled(autoencoder, tile) if tile else autoencoder
    device = next((one.device for one in module(autoencoder).parameters()), images.device)
    again = rounded(reconstruct(through, images.to(device)).cpu())
    facts = {"what": "reconstruction", "model": _about(model), "tile": tile}
    return to_pictures(again)[0], facts


def write(made: Judged, path: Path) -> None:
    """``path`` as Markdown, with the facts as .json and the sheet as .png beside it."""
    with writing(path.with_suffix(".png")) as aside:
        made.sheet.save(aside, format="PNG")
    write_text(
        path.with_suffix(".json"), json.dumps(made.facts, indent=2, ensure_ascii=False) + "\n"
    )
    write_text(path.with_suffix(".md"), _page(made, path.with_suffix(".png").name))


def table(made: Judged) -> Table:
    """The measures for people."""
    shown = Table("measure", "value", title=_title(made.facts), title_justify="left")
    for name, value in made.facts["measured"].items():
        shown.add_row(name, f"{value:.4g}")
    return shown


def _autoencoder(model: LatentDiffusion) -> Autoencoder:
    if model.autoencoder is None:
        raise BadInput(
            f"the model {model.card.name!r} has no autoencoder; load a model that holds one."
        )
    return model.autoencoder


def _about(model: LatentDiffusion) -> dict[str, Any]:
    part = module(_autoencoder(model))
    dtype = next((str(one.dtype).removeprefix("torch.") for one in part.parameters()), "float32")
    kind = kind_of(vars(part)["config"])
    licence = combined([one for one in model.licences if one.part == "autoencoder"])
    card = {"name": model.card.name, "hash": model.card.hash, "licence": licence}
    return {**card, "autoencoder": kind, "precision": dtype}


def _title(facts: dict[str, Any]) -> str:
    names = ", ".join(Path(path).name for path in facts["data"].get("paths", ()))
    return f"{facts['model']['name']} ({facts['model']['autoencoder']}) on {facts['data']['judged']} of {names}"


def _page(made: Judged, sheet: str) -> str:
    facts = made.facts
    lines = [
        f"# {_title(facts)}",
        "",
        f"Pictures: {facts['framing']}. Precision: {facts['model']['precision']}.",
        "",
    ]
    lines += [f"Licence of the autoencoder: {facts['model']['licence']}.", ""]
    lines += ["| measure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value:.4g} |" for name, value in facts["measured"].items()]
    lines += [line for one in facts["data"]["broken"] for line in ("", f"Left out: {one}")]
    lines += ["", "Original | reconstruction | difference ×4 about grey:", "", f"![sheet]({sheet})"]
    return "\n".join(lines) + "\n"
