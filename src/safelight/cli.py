"""The command line: thin verbs. Nothing heavy is imported before a verb needs it."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from safelight.errors import SafelightError

app = typer.Typer(
    help="Latent diffusion that you own: train, generate, judge and serve image models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
err = Console(stderr=True, highlight=False)


def _version(asked: bool) -> None:
    if asked:
        from safelight import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command()
def train(
    target: Annotated[Path, typer.Argument(help="A recipe.toml to begin, or a run folder to go on with.")],
    run: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/NAME-OF-THE-RECIPE.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key: --set loop.updates=2000")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Train an autoencoder or a denoiser by a recipe; interrupted runs go on where they were.

    Ctrl-C saves and stops. The run folder holds metrics.jsonl, metrics.png, samples, checkpoints and the model.

    Example: safelight train recipes/stickers.toml --set loop.batch=32
    """
    from safelight.files import cache_folder
    from safelight.progress import Bars
    from safelight.training.loop import train as training
    from safelight.training.run import open_run

    opened = open_run(target, run, tuple(changes or ()))
    with opened.claim(), _stopping() as stop, Bars(err, quiet) as bars:
        last = None
        for last in training(opened, cache_folder(), bars.report, stop):
            shown = {name.partition("/")[2]: value for name, value in last.measured.items() if name.endswith("/loss")}
            text = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
            bars.report("training", last.update, last.updates, f"{text}  {last.pictures_a_second:.1f} pictures/s")
    if last is not None and last.update < last.updates:
        err.print(f"saved at update {last.update}; go on with: safelight train {opened.folder}")
        raise typer.Exit(130)
    err.print(f"done: {opened.folder / 'model'}")


@contextmanager
def _stopping() -> Iterator["_Stop"]:
    """Within the block the first Ctrl-C or SIGTERM only asks to stop; the second stops at once."""
    stop = _Stop()
    earlier = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Stop:
    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        err.print("stopping after this update; once more to stop at once without saving")


def main() -> None:
    """Run the command line; a refusal is one sentence, exit code 2 for the user's mistake and 1 for ours."""
    try:
        app()
    except SafelightError as error:
        err.print(f"[bold red]error:[/] {error}", markup=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
