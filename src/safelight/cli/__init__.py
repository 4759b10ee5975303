"""The command line. Nothing heavy is imported before a command needs it."""

import os
import sys
from functools import partial
from typing import Annotated

import typer

from safelight.cli.compare import Compare
from safelight.cli.evaluate import Evaluate
from safelight.cli.files import convert, inspect
from safelight.cli.lists import samplers
from safelight.cli.options import VERBOSE, err
from safelight.cli.reconstruct import reconstruct
from safelight.cli.tasks import command
from safelight.cli.train import train
from safelight.config import Slot
from safelight.errors import SafelightError, notes

app = typer.Typer(
    help="Latent diffusion that you own: train, generate, evaluate and convert image models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _task in reversed(Slot("tasks").all()):
    app.command(_task.verb)(command(_task))
for _command in (train, inspect, convert, Evaluate, Compare, reconstruct, samplers):
    app.command()(_command)


def _version(wanted: bool) -> None:
    if wanted:
        from safelight import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an unexpected error.")
    ] = False,
    verbose: VERBOSE = 0,
) -> None:
    pass


def main() -> None:
    """Run the command line. An error is one sentence; exit code 2 is the user's mistake, 1 ours.

    One of several processes of a training leaves without shutting the interpreter down: threads of
    the process group may still release tensors, and a thread that then needs the interpreter
    aborts.
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
            app(prog_name="safelight")
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
    message = " ".join(str(error).split())[:300]
    return (
        f"this should not have happened, please report it: {type(error).__name__}: {message}; "
        "safelight --debug, or SAFELIGHT_DEBUG=1, shows where."
    )
