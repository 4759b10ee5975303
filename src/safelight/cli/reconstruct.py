"""``safelight reconstruct``: a picture through an autoencoder and back."""

import json
from pathlib import Path
from typing import Annotated

import typer

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
