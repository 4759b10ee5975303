"""``safelight evaluate`` and ``reconstruct``: what an autoencoder loses."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from safelight.cli.options import HINT, JSON, MODEL, QUIET, demand_png, err, hints


def evaluate(
    model: Annotated[str, typer.Argument(help="A name, folder or file with an autoencoder.")],
    data: Annotated[Path, typer.Argument(help="A folder or zip of pictures.")],
    size: Annotated[
        int | None, typer.Option(help="Side of the centre squares. Default: the model's own.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="At most so many pictures, spread evenly over the data.")
    ] = 5000,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Report .md; .json and .png beside it.")
    ] = Path("report.md"),
    skip_broken: Annotated[
        bool, typer.Option(help="Leave out pictures that cannot be read, and name them.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Say what an autoencoder loses of pictures: a table, and a sheet of original, reconstruction and difference.

    Example: safelight evaluate runs/emoji-kl data/emoji/emoji-openmoji-128.zip --count 200
    """
    from safelight.checkpoints import load
    from safelight.data.sources.folder import Config
    from safelight.evaluation import report
    from safelight.files import check_writable
    from safelight.progress import Bars

    check_writable(out)
    source = Config((str(data),), broken="skip" if skip_broken else "refuse").build()
    with Bars(err, quiet) as bars:
        loaded = load(model, device, precision, report=bars.report)
        made = report.reconstruction(
            loaded, source, loaded.card.size[0] if size is None else size, count, bars.report
        )
    report.write(made, out)
    if as_json:
        typer.echo(json.dumps(made.facts, indent=2, ensure_ascii=False))
    else:
        Console(highlight=False).print(report.table(made))


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
