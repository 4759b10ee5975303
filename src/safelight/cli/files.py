"""``safelight inspect`` and ``convert``: what model files hold, and writing another format."""

import json
from typing import Annotated

import typer
from rich.console import Console

from safelight.cli.options import HINT, JSON, QUIET, VERBOSE, err, hints
from safelight.errors import BadInput


def inspect(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help=(
                "A model, a file of weights or of an adapter, a run folder or a picture; "
                "or several files that make one model together."
            ),
            show_default="stickers",
        ),
    ] = None,
    hint: HINT = None,
    as_json: JSON = False,
    verbose: VERBOSE = 0,
) -> None:
    """Show what a model or a file of weights holds, how far a run is, or how a picture was made.

    Only the headers of weights are read, so it is quick whatever their size.

    Example: safelight inspect sd-v1-5.safetensors
    """
    from safelight import inspection

    facts = inspection.inspect(sources or ["stickers"], hints(hint))
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        inspection.show(facts, Console(highlight=False))


def convert(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="IN... OUT", help="What to read, and last where to write it."),
    ],
    to: Annotated[
        str,
        typer.Option(
            help=(
                "The format to write: native (our model folder), single-file (one safetensors "
                "file, as web UIs read it) or diffusers (a folder as diffusers has it)."
            )
        ),
    ] = "native",
    hint: HINT = None,
    as_json: JSON = False,
    quiet: QUIET = False,
    verbose: VERBOSE = 0,
) -> None:
    """Write a model in another format: our folder, one safetensors file, or a diffusers folder.

    The weights stay bit for bit the same. If several files make the model, name them all before
    OUT.

    Example: safelight convert sd-v1-5.safetensors sd-v1-5 --to diffusers
    """
    if len(sources) < 2:
        raise BadInput("convert: wanted what to read and then where to write it, got one name.")
    from safelight.checkpoints import read, save
    from safelight.progress import Bars

    *inputs, out = sources
    with Bars(err, quiet) as bars:
        model = read(inputs, hints(hint), bars.report)
        save(model, out, to, bars.report)
    facts = {"file": out, "to": to, "name": model.card.name, **model.card.origin}
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str) if as_json else out)
