"""The command line: thin verbs. Nothing heavy is imported before a verb needs it."""

import os
import sys
from functools import partial
from typing import Annotated

import typer

from safelight.cli.evaluation import Evaluate
from safelight.cli.files import convert, inspect
from safelight.cli.lists import samplers
from safelight.cli.options import err
from safelight.cli.reconstruct import reconstruct
from safelight.cli.tasks import verb
from safelight.cli.train import train
from safelight.config import Slot
from safelight.errors import SafelightError, notes

app = typer.Typer(
    help="Latent diffusion that you own: train, generate, judge and serve image models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

for _verb in (train, inspect, convert, Evaluate, reconstruct, samplers):
    app.command()(_verb)
for _task in Slot("tasks").all():
    app.command(_task.verb)(verb(_task))


def _version(asked: bool) -> None:
    if asked:
        from safelight import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an unexpected error arose.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a refusal is one sentence, exit code 2 for the user's mistake and 1 for ours.

    One of several processes leaves without taking the interpreter apart: threads of the process group may still let go
    of tensors, and one that wants the interpreter then aborts.
    """
    try:
        _main()
    except SystemExit as end:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def _main() -> None:
    debug = "--debug" in sys.argv[1:2] or os.environ.get("SAFELIGHT_DEBUG", "") not in ("", "0")
    try:
        with notes(partial(err.print, markup=False, soft_wrap=True)):
            app()
    except SafelightError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        err.print(f"error: {_unexpected(error)}", markup=False, soft_wrap=True)
        sys.exit(1)


def _unexpected(error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    return (
        f"this should not have happened, please report it: {type(error).__name__}: {said}; "
        "safelight --debug, or SAFELIGHT_DEBUG=1, shows where."
    )
