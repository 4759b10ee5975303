"""``safelight reconstruct``: a picture through an autoencoder and back."""

import json
from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.options import HINT, JSON, MODEL, QUIET, demand_png, err, hints


def reconstruct(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A picture of any size.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The PNG to write.")],
    model: MODEL = None,
    hint: HINT = None,
    tile: Annotated[
        int, typer.Option(min=0, help="Work in tiles of so many pixels; 0: whole.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Pass a picture through an autoencoder and back, at its own size.

    Example: safelight reconstruct photo.jpg again.png --tile 512
    """
    demand_png(out)
    from safelight.checkpoints import load
    from safelight.evaluation import report
    from safelight.files import check_writable
    from safelight.media.pictures import read_picture, write_png
    from safelight.progress import Bars

    check_writable(out)
    picture = read_picture(source, str(source))
    with Bars(err, quiet) as bars:
        loaded = load(model or "stickers", device, precision, hints(hint), bars.report)
    again, facts = report.one(loaded, picture, tile)
    write_png(again, out, facts)
    typer.echo(
        json.dumps({"file": str(out), **facts}, indent=2, ensure_ascii=False)
        if as_json
        else str(out)
    )
