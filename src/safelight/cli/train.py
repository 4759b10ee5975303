"""``safelight train``, and how it is stopped."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from safelight.cli.options import HINT, QUIET, VERBOSE, err, hints


def train(
    target: Annotated[
        Path, typer.Argument(help="A recipe.toml to start a run, or a run folder to resume.")
    ],
    run: Annotated[
        Path | None, typer.Option(help="The run folder. Default: runs/NAME-OF-THE-RECIPE.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the recipe: --set loop.updates=2000. Repeat it for several.",
        ),
    ] = None,
    hint: HINT = None,
    quiet: QUIET = False,
    verbose: VERBOSE = 0,
) -> None:
    """Train an autoencoder or a denoiser from a recipe, or resume a run where it stopped.

    Ctrl-C saves and stops. The run folder holds metrics.jsonl, metrics.png, samples, checkpoints
    and the model.

    To train with several processes: torchrun --nproc-per-node 2 -m safelight train …

    Example: safelight train recipes/stickers.toml --set loop.batch=32
    """
    from safelight.files import cache_folder
    from safelight.progress import Bars
    from safelight.training.loop import train as training
    from safelight.training.parallel import process_group
    from safelight.training.run import open_run

    opened = open_run(target, run, tuple(changes or ()), hints(hint))
    with process_group() as processes, opened.claim() if processes.first else nullcontext():
        with _stopping(processes.first) as stop, Bars(err, quiet or not processes.first) as bars:
            for last in training(opened, cache_folder(), bars.report, stop, processes):
                bars.report("training", last.update, last.updates, _note(last))
        if processes.first:
            resume = f"saved at update {last.update}; resume with: safelight train {opened.folder}"
            err.print(
                resume if last.update < last.updates else f"done: {opened.folder / 'model'}",
                soft_wrap=True,
            )
    if last.update < last.updates:
        raise typer.Exit(130)


def _note(progress: Any) -> str:
    """Losses and speed, for the progress bar; empty before the first update."""
    metrics = progress.metrics.items()
    losses = " ".join(f"{value:.4f}" for name, value in metrics if name.endswith("/loss"))
    return f"loss {losses}  {progress.pictures_a_second:.1f} pictures/s" if losses else ""


@contextmanager
def _stopping(reports: bool) -> Iterator["_Stop"]:
    """Within the block the first Ctrl-C or SIGTERM asks training to stop; the second ends it."""
    stop = _Stop(reports)
    earlier = {
        number: signal.signal(number, stop.request) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Stop:
    """Whether training was asked to stop."""

    def __init__(self, reports: bool) -> None:
        self._requested, self._reports = False, reports

    def __call__(self) -> bool:
        return self._requested

    def request(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        if self._reports:
            err.print(
                "stopping after this update; press Ctrl-C again to stop at once without saving"
            )
