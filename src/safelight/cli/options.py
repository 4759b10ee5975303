"""What several verbs ask in the same words, and the console that people read."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from safelight.errors import BadInput

err = Console(stderr=True, highlight=False)

JSON = Annotated[bool, typer.Option("--json", help="Print JSON for machines on standard output.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
MODEL = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="A name, folder or file of weights; or several parts.",
        show_default="stickers",
    ),
]
HINT = Annotated[
    list[str] | None,
    typer.Option(
        "--hint",
        metavar="KEY=VALUE",
        help="What a file cannot tell: prediction=v, ema=yes, scale=0.13025.",
    ),
]


def hints(given: list[str] | None) -> dict[str, str]:
    """``--hint KEY=VALUE`` as a dictionary."""
    pairs = [one.partition("=") for one in given or ()]
    if wrong := [name for name, equals, value in pairs if not (name and equals and value)]:
        raise BadInput(f"--hint: wanted KEY=VALUE such as prediction=v, got {wrong[0]!r}.")
    return {name: value for name, _, value in pairs}


def demand_png(out: Path) -> None:
    """Refuse another kind of picture before anything is computed."""
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out: wanted a name that ends in .png, got {str(out)!r}.")
