"""``safelight train``, and how it is stopped."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from safelight.cli.options import HINT, QUIET, err, hints


def train(
    target: Annotated[
        Path, typer.Argument(help="A recipe.toml to begin, or a run folder to go on with.")
    ],
    run: Annotated[
        Path | None, typer.Option(help="The run folder. Default: runs/NAME-OF-THE-RECIPE.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key: --set loop.updates=2000"),
    ] = None,
    hint: HINT = None,
    quiet: QUIET = False,
) -> None:
    """Train an autoencoder or a denoiser by a recipe; interrupted runs go on where they were.

    Ctrl-C saves and stops. The run folder holds metrics.jsonl, metrics.png, samples, checkpoints and the model.

    Several processes share the work if torchrun starts them: torchrun --nproc-per-node 2 -m safelight.cli train …

    Example: safelight train recipes/stickers.toml --set loop.batch=32
    """
    from safelight.files import cache_folder
    from safelight.progress import Bars
    from safelight.training.loop import train as training
    from safelight.training.parallel import joined
    from safelight.training.run import open_run

    opened = open_run(target, run, tuple(changes or ()), hints(hint))
    with joined() as processes, opened.claim() if processes.first else nullcontext():
        with _stopping(processes.first) as stop, Bars(err, quiet or not processes.first) as bars:
            for last in training(opened, cache_folder(), bars.report, stop, processes):
                losses = [
                    f"{value:.4f}"
                    for name, value in last.measured.items()
                    if name.endswith("/loss")
                ]
                note = (
                    f"loss {' '.join(losses)}  {last.pictures_a_second:.1f} pictures/s"
                    if losses
                    else ""
                )
                bars.report("training", last.update, last.updates, note)
        if processes.first:
            go_on = f"saved at update {last.update}; go on with: safelight train {opened.folder}"
            err.print(
                go_on if last.update < last.updates else f"done: {opened.folder / 'model'}",
                soft_wrap=True,
            )
    if last.update < last.updates:
        raise typer.Exit(130)


@contextmanager
def _stopping(tells: bool) -> Iterator["_Stop"]:
    """Within the block the first Ctrl-C or SIGTERM only asks to stop; the second stops at once."""
    stop = _Stop(tells)
    earlier = {
        number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Stop:
    def __init__(self, tells: bool) -> None:
        self.asked, self._tells = False, tells

    def __call__(self) -> bool:
        return self.asked

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self._tells:
            err.print("stopping; once more to stop at once without saving")
