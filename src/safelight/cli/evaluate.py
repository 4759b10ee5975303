"""``safelight evaluate`` and ``reconstruct``: how faithfully an autoencoder restores pictures."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from safelight.cli.options import (
    DEVICE,
    HINT,
    JSON,
    MODEL,
    PRECISION,
    QUIET,
    VERBOSE,
    err,
    hints,
    require_png,
)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="The name, folder or file of a model with an autoencoder.")
    ],
    data: Annotated[Path, typer.Argument(help="A folder or zip file of pictures.")],
    size: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels of the centre square of each picture. Default: the model's size."
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "--count", "-n", min=1, help="Take at most this many pictures, spread evenly."
        ),
    ] = 5000,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The report in Markdown; a .json and a .png go next to it."
        ),
    ] = Path("report.md"),
    skip_broken: Annotated[
        bool, typer.Option(help="Leave out pictures that cannot be read; the report names them.")
    ] = False,
    device: DEVICE = "auto",
    precision: PRECISION = "auto",
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Measure how much an autoencoder loses of pictures: a table, and a sheet of pictures.

    The sheet shows original, reconstruction and difference side by side.

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
        loaded = load(model, device, precision, progress=bars.report)
        result = report.reconstruction(
            loaded, source, loaded.card.size[0] if size is None else size, count, bars.report
        )
    report.write(result, out)
    if as_json:
        typer.echo(json.dumps(result.facts, indent=2, ensure_ascii=False))
    else:
        Console(highlight=False).print(report.table(result))


def reconstruct(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A picture of any size.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The PNG to write.")],
    model: MODEL = None,
    hint: HINT = None,
    tile: Annotated[
        int,
        typer.Option(
            min=0,
            help="Work in tiles of this many pixels, in less memory; 0: the whole picture at once.",
        ),
    ] = 0,
    device: DEVICE = "auto",
    precision: PRECISION = "auto",
    as_json: JSON = False,
    quiet: QUIET = False,
    verbose: VERBOSE = 0,
) -> None:
    """Encode a picture with an autoencoder and decode it again, at its own size.

    Example: safelight reconstruct photo.jpg again.png --tile 512
    """
    require_png(out)
    from safelight.checkpoints import load
    from safelight.evaluation import report
    from safelight.files import check_writable
    from safelight.media.pictures import read_picture, write_png
    from safelight.progress import Bars

    check_writable(out)
    picture = read_picture(source, str(source))
    with Bars(err, quiet) as bars:
        loaded = load(model or "stickers", device, precision, hints(hint), bars.report)
    restored, facts = report.reconstruct_picture(loaded, picture, tile)
    write_png(restored, out, facts)
    result = {"file": str(out), **facts}
    typer.echo(json.dumps(result, indent=2, ensure_ascii=False) if as_json else str(out))
