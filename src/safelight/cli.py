"""The command line: thin verbs. Nothing heavy is imported before a verb needs it."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import Field, field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from safelight.config import Slot
from safelight.errors import BadInput, SafelightError, notes
from safelight.settings import Settings

app = typer.Typer(
    help="Latent diffusion that you own: train, generate, judge and serve image models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
err = Console(stderr=True, highlight=False)

JSON = Annotated[bool, typer.Option("--json", help="Print JSON for machines on standard output.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
MODEL = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="A name, folder or file of weights; or several parts.", show_default="stickers"),
]
HINT = Annotated[
    list[str] | None,
    typer.Option("--hint", metavar="KEY=VALUE", help="What a file cannot tell: prediction=v, ema=yes, scale=0.13025."),
]


def _version(asked: bool) -> None:
    if asked:
        from safelight import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an unexpected error arose.")] = False,
) -> None:
    pass


@app.command()
def train(
    target: Annotated[Path, typer.Argument(help="A recipe.toml to begin, or a run folder to go on with.")],
    run: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/NAME-OF-THE-RECIPE.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key: --set loop.updates=2000")
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

    opened = open_run(target, run, tuple(changes or ()), _hints(hint))
    with joined() as processes, opened.claim() if processes.first else nullcontext():
        with _stopping(processes.first) as stop, Bars(err, quiet or not processes.first) as bars:
            for last in training(opened, cache_folder(), bars.report, stop, processes):
                losses = [f"{value:.4f}" for name, value in last.measured.items() if name.endswith("/loss")]
                note = f"loss {' '.join(losses)}  {last.pictures_a_second:.1f} pictures/s" if losses else ""
                bars.report("training", last.update, last.updates, note)
        if processes.first:
            go_on = f"saved at update {last.update}; go on with: safelight train {opened.folder}"
            err.print(go_on if last.update < last.updates else f"done: {opened.folder / 'model'}", soft_wrap=True)
    if last.update < last.updates:
        raise typer.Exit(130)


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(help="A model, weights, a run folder, a picture made here.")] = "stickers",
    hint: HINT = None,
    as_json: JSON = False,
) -> None:
    """Say what a model or file of weights consists of, how far a run is, or how a picture was made.

    Of files the headers alone are read, so that it takes no time whatever their size.

    Example: safelight inspect sd-v1-5.safetensors
    """
    from safelight.inspection import inspect as look
    from safelight.inspection import show

    found = look(source, _hints(hint))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        show(found, Console(highlight=False))


@app.command()
def convert(
    sources: Annotated[list[str], typer.Argument(metavar="IN... OUT", help="What to read, then what to write.")],
    to: Annotated[str, typer.Option(help="native, single-file or diffusers.")] = "native",
    hint: HINT = None,
    as_json: JSON = False,
) -> None:
    """Write a model in another layout: our folder, one safetensors file, or a folder as diffusers has it.

    Weights stay as they are, to the bit. Several files may hold one model: name them all, and where to write it last.

    Example: safelight convert sd-v1-5.safetensors sd-v1-5 --to diffusers
    """
    if len(sources) < 2:
        raise BadInput("convert: wanted what to read and then what to write, got one name.")
    from safelight.checkpoints import read, save

    *given, out = sources
    model = read(given, _hints(hint))
    save(model, out, to)
    facts = {"file": out, "to": to, "name": model.card.name, **model.card.origin}
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str) if as_json else out)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A name, folder or file with an autoencoder.")],
    data: Annotated[Path, typer.Argument(help="A folder or zip of pictures.")],
    size: Annotated[int | None, typer.Option(help="Side of the centre squares. Default: the model's own.")] = None,
    count: Annotated[int, typer.Option(min=1, help="At most so many pictures, spread evenly over the data.")] = 5000,
    out: Annotated[Path, typer.Option("--out", "-o", help="Report .md; .json and .png beside it.")] = Path("report.md"),
    skip_broken: Annotated[bool, typer.Option(help="Leave out pictures that cannot be read, and name them.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Say what an autoencoder loses of pictures: a table, and a sheet of original, reconstruction and difference.

    Example: safelight evaluate runs/emoji-kl data/emoji/emoji-openmoji-128.zip --count 200
    """
    from safelight.checkpoints import load
    from safelight.data.sources.folder import Config
    from safelight.evaluation import report
    from safelight.files import check_writable
    from safelight.progress import Bars

    check_writable(out)
    source = Config((str(data),), broken="skip" if skip_broken else "refuse").build()
    loaded = load(model, device, precision)
    with Bars(err, quiet) as bars:
        made = report.reconstruction(loaded, source, loaded.card.size[0] if size is None else size, count, bars.report)
    report.write(made, out)
    if as_json:
        typer.echo(json.dumps(made.facts, indent=2, ensure_ascii=False))
    else:
        Console(highlight=False).print(report.table(made))


@app.command()
def reconstruct(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A picture of any size.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The PNG to write.")],
    model: MODEL = None,
    hint: HINT = None,
    tile: Annotated[int, typer.Option(min=0, help="Work in tiles of so many pixels; 0: whole.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    as_json: JSON = False,
) -> None:
    """Pass a picture through an autoencoder and back, at its own size.

    Example: safelight reconstruct photo.jpg again.png --tile 512
    """
    _demand_png(out)
    from safelight.checkpoints import load
    from safelight.evaluation import report
    from safelight.files import check_writable
    from safelight.media.pictures import read_picture, write_png

    check_writable(out)
    picture = read_picture(source, str(source))
    again, facts = report.one(load(model or "stickers", device, precision, _hints(hint)), picture, tile)
    write_png(again, out, facts)
    typer.echo(json.dumps({"file": str(out), **facts}, indent=2, ensure_ascii=False) if as_json else str(out))


@app.command()
def samplers(as_json: JSON = False) -> None:
    """List the samplers: the kind, its order, the passes of a step, when it draws noise, and the paper.

    Example: safelight generate "fox" --sampler dpmpp2m
    """
    from safelight.listing import samplers as listed

    found = listed()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table("kind", "name", "order", "passes a step", "draws noise", "options", "paper", box=None)
    for one in found:
        table.add_row(*(one[key] for key in ("kind", "name", "order", "passes", "draws", "options", "paper")))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def _verb(task: type[Any]) -> type:
    """The command of a task, as a dataclass: its fields are the task's, those of ``Settings`` and these."""
    sized = {"width", "height"} <= {one.name for one in fields(task)}
    own = [one for one in fields(task) if one.name not in ("width", "height")]
    options = [_option(task, one, argument=number == 0) for number, one in enumerate(own)]
    size = Annotated[str | None, typer.Option(metavar="N or WxH", help="In pixels. Default: the model's own size.")]
    options += [("size", size, field(default=None))] if sized else []
    options += [_option(Settings, one) for one in fields(Settings)]
    options += [
        ("out", Annotated[Path, typer.Option("--out", "-o", help="A PNG; more get -1, -2, …")], Path("out.png")),
        ("model", MODEL, None),
        ("hint", HINT, None),
        ("lora", _several("--lora", "FILE[:SCALE]", "A low-rank adapter to merge, at this scale."), None),
        ("word", _several("--word", "FILE[:NAME]", "A learned word (textual inversion)."), None),
        ("control", _several("--control", "FILE=PICTURE[:SCALE]", "A ControlNet or T2I-adapter, and its map."), None),
        ("weak", Annotated[str | None, typer.Option(help="A weaker model beside it, for autoguidance.")], None),
        ("device", Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")], "auto"),
        ("precision", Annotated[str, typer.Option(help="auto, fp32 or bf16.")], "auto"),
        ("as_json", JSON, False),
        ("quiet", QUIET, False),
    ]

    def perform(self: Any) -> None:
        given = vars(self)
        width, height = _sides(given.get("size"))
        sides = {"width": width, "height": height} if sized else {}
        asked = task(**{one.name: given[one.name] for one in own}, **sides)
        settings = Settings(**{one.name: given[one.name] for one in fields(Settings)})
        _make(asked, settings, self)

    command = make_dataclass(f"Command{task.__name__}", options, namespace={"__post_init__": perform})
    command.__doc__ = f"{task.__doc__}\n\nExample: safelight {task.verb} {task.example}"
    return command


def _several(flag: str, metavar: str, meaning: str) -> Any:
    return Annotated[list[str] | None, typer.Option(flag, metavar=metavar, help=f"{meaning} May be given again.")]


def _option(cls: type[Any], one: Field[Any], argument: bool = False) -> tuple[str, Any, Any]:
    """A field as a command's option, or as its argument; what a slot reads is given as text."""
    hint = get_type_hints(cls)[one.name]
    kind = hint if hint in (str, bool, int, float, int | None, float | None, bool | None) else str | None
    meaning = one.metadata["help"]
    how = typer.Argument(help=meaning) if argument else typer.Option(help=meaning)
    return one.name, Annotated[kind, how], one.default


def _sides(size: str | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    sides = re.fullmatch(r"(\d{1,9})(?:[x×](\d{1,9}))?", size.strip().lower())
    if sides is None:
        raise BadInput(f"--size: wanted pixels such as 128 or 160x128, got {size!r}.")
    return int(sides[1]), int(sides[2] or sides[1])


def _make(task: Any, settings: Settings, options: Any) -> None:
    """Carry out a task, with a bar; save its pictures with their recipes, and say where they are."""
    _demand_png(options.out)
    from safelight.checkpoints import load
    from safelight.checkpoints.adapting import adapted, controlled
    from safelight.files import check_writable
    from safelight.generate import generate, recipe, resolve
    from safelight.media.pictures import write_png
    from safelight.progress import Bars

    check_writable(options.out)
    model = load(options.model or "stickers", options.device, options.precision, _hints(options.hint))
    if options.weak is not None:
        model = replace(model, beside={"weak": load(options.weak, options.device, options.precision)})
    model = adapted(model, options.lora or (), options.word or ())
    for one in options.control or ():
        model = controlled(model, one, *_sides(vars(options).get("size")))
    settings = resolve(model, settings)
    with Bars(err, options.quiet) as bars:
        pictures = generate(model, task, settings, lambda step: bars.report("sampling", step.index + 1, step.total))
    made: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures):
        path = options.out if len(pictures) == 1 else options.out.with_stem(f"{options.out.stem}-{index + 1}")
        how = recipe(model, task, settings, index)
        write_png(picture, path, how)
        made.append({"file": str(path), "recipe": how})
    names = "\n".join(one["file"] for one in made)
    typer.echo(json.dumps(made, indent=2, ensure_ascii=False) if options.as_json else names)


def _hints(given: list[str] | None) -> dict[str, str]:
    pairs = [one.partition("=") for one in given or ()]
    if wrong := [name for name, equals, value in pairs if not (name and equals and value)]:
        raise BadInput(f"--hint: wanted KEY=VALUE such as prediction=v, got {wrong[0]!r}.")
    return {name: value for name, _, value in pairs}


def _demand_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out: wanted a name that ends in .png, got {str(out)!r}.")


for _task in Slot("tasks").all():
    app.command(_task.verb)(_verb(_task))


@contextmanager
def _stopping(tells: bool) -> Iterator["_Stop"]:
    """Within the block the first Ctrl-C or SIGTERM only asks to stop; the second stops at once."""
    stop = _Stop(tells)
    earlier = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
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


if __name__ == "__main__":
    main()
