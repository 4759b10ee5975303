"""``safelight inspect`` and ``convert``: what files hold, and the same in another layout."""

import json
from typing import Annotated

import typer
from rich.console import Console

from safelight.cli.options import HINT, JSON, QUIET, err, hints
from safelight.errors import BadInput


def inspect(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="A model, weights, an adapter, a run folder, a picture; or files that make one model together.",
            show_default="stickers",
        ),
    ] = None,
    hint: HINT = None,
    as_json: JSON = False,
) -> None:
    """Say what a model or file of weights consists of and lacks, how far a run is, or how a picture was made.

    Of files the headers alone are read, so that it takes no time whatever their size.

    Example: safelight inspect sd-v1-5.safetensors
    """
    from safelight.inspection import inspect as look
    from safelight.inspection import show

    found = look(sources or ["stickers"], hints(hint))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        show(found, Console(highlight=False))


def convert(
    sources: Annotated[
        list[str], typer.Argument(metavar="IN... OUT", help="What to read, then what to write.")
    ],
    to: Annotated[str, typer.Option(help="native, single-file or diffusers.")] = "native",
    hint: HINT = None,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Write a model in another layout: our folder, one safetensors file, or a folder as diffusers has it.

    Weights stay as they are, to the bit. Several files may hold one model: name them all, and where to write it last.

    Example: safelight convert sd-v1-5.safetensors sd-v1-5 --to diffusers
    """
    if len(sources) < 2:
        raise BadInput("convert: wanted what to read and then what to write, got one name.")
    from safelight.checkpoints import read, save
    from safelight.progress import Bars

    *given, out = sources
    with Bars(err, quiet) as bars:
        model = read(given, hints(hint), bars.report)
        save(model, out, to, bars.report)
    facts = {"file": out, "to": to, "name": model.card.name, **model.card.origin}
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str) if as_json else out)
