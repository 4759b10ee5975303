"""Options that several commands have, and the console for messages to people."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from safelight.errors import BadInput

err = Console(stderr=True, highlight=False)


def log(verbosity: int) -> int:
    """Send log messages to standard error: information from 1 on, everything from 2 on."""
    if verbosity:
        logger = logging.getLogger("safelight")
        logger.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
            logger.addHandler(handler)
    return verbosity


JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")]
VERBOSE = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        metavar="",
        show_default=False,
        callback=log,
        help="Log what is done on standard error; -vv logs every step.",
    ),
]
DEVICE = Annotated[
    str, typer.Option(help="Where to compute: auto (the GPU if there is one), cpu, cuda or cuda:1.")
]
PRECISION = Annotated[
    str,
    typer.Option(
        help="Of the numbers in the networks: auto (what the device does best), fp32 or bf16."
    ),
]
MODEL = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help=(
            "A model's name, folder or file. Repeat it for files that make one model together: "
            "-m unet.safetensors -m vae.safetensors."
        ),
        show_default="stickers",
    ),
]
HINT = Annotated[
    list[str] | None,
    typer.Option(
        "--hint",
        metavar="KEY=VALUE",
        help=(
            "A fact about a model file that cannot be read from it, such as --hint prediction=v "
            "(what the network predicts), --hint ema=yes (take the averaged weights) or "
            "--hint scale=0.13025 (of the latents). Repeat it for several."
        ),
    ),
]


def hints(pairs: list[str] | None) -> dict[str, str]:
    """``--hint KEY=VALUE``, as often as it was given, as a dictionary."""
    parts = [pair.partition("=") for pair in pairs or ()]
    if wrong := [name for name, equals, value in parts if not (name and equals and value)]:
        raise BadInput(f"--hint: wanted KEY=VALUE such as prediction=v, got {wrong[0]!r}.")
    return {name: value for name, _, value in parts}


def require_png(out: Path) -> None:
    """Refuse the name of another kind of picture, before anything is computed."""
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out: wanted a name that ends in .png, got {str(out)!r}.")
