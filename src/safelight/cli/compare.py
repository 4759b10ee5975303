"""``safelight compare``: models side by side, openly or blindly, and the count of choices."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from safelight.cli.evaluate import (
    FEATURES,
    ONLY,
    TRAIN_ONLY,
    build_networks,
    picture_folder,
    read_lines,
)
from safelight.cli.options import DEVICE, JSON, PRECISION, QUIET, VERBOSE, err
from safelight.errors import BadInput
from safelight.settings import Settings

if TYPE_CHECKING:
    from safelight.evaluation.reference import Reference
    from safelight.model import LatentDiffusion


@dataclass
class Compare:
    """Show what models make of the same prompts and seeds: a table, and a sheet of a column a
    model.

    With --data the table has figures against held-out pictures. With --blind the sheet does not
    tell which model is which; write the better column of each row into the form, and count with
    --choices and --key.

    Example: safelight compare stickers runs/mine --prompt "fox, flat emoji" --prompt "red apple,
    flat emoji"
    """

    models: Annotated[
        list[str] | None, typer.Argument(help="Two or more names, folders or files.")
    ] = None
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="A prompt. Repeat it for more.")
    ] = None
    prompts: Annotated[Path | None, typer.Option(help="A file with a prompt a line.")] = None
    data: Annotated[
        list[Path] | None, typer.Option(help="Held-out pictures, for figures. Repeat it for more.")
    ] = None
    only: ONLY = None
    train_only: TRAIN_ONLY = None
    features: FEATURES = None
    count: Annotated[
        int,
        typer.Option("--count", "-n", min=6, help="At most this many held-out pictures, spread."),
    ] = 200
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1
    seed: Annotated[int, typer.Option(min=0, help="Of the first picture of each model.")] = 0
    size: Annotated[int | None, typer.Option(help="Side in pixels. Default: the models' own.")] = (
        None
    )
    steps: Annotated[int | None, typer.Option(help="Default: each model's own.")] = None
    guidance: Annotated[str | None, typer.Option(help="Default: each model's own.")] = None
    sampler: Annotated[str | None, typer.Option(help="Default: each model's own.")] = None
    bootstrap: Annotated[int, typer.Option(min=20, help="Bootstrap samples.")] = 1000
    blind: Annotated[
        bool, typer.Option(help="Shuffle the models in each row and keep the key in its own file.")
    ] = False
    choices: Annotated[
        Path | None, typer.Option(help="Count the choices of this filled-in form.")
    ] = None
    key: Annotated[Path | None, typer.Option(help="The key to the choices.")] = None
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The page in Markdown; the sheet goes next to it.")
    ] = Path("compare.md")
    device: DEVICE = "auto"
    precision: PRECISION = "auto"
    as_json: JSON = False
    quiet: QUIET = False
    verbose: VERBOSE = 0

    def __post_init__(self) -> None:
        if self.choices is not None or self.key is not None:
            _count(self)
        else:
            _compare(self)


def _count(options: Compare) -> None:
    """Count the choices that a person made blindly."""
    from safelight.evaluation.comparison import count_choices, read_choices, read_key
    from safelight.evaluation.generation_report import figure_table

    if options.choices is None or options.key is None:
        raise BadInput("choices are counted with both --choices FORM.csv and --key KEY.json.")
    figures = count_choices(read_key(options.key), read_choices(options.choices))
    if options.as_json:
        typer.echo(json.dumps([vars(figure) for figure in figures], indent=2, ensure_ascii=False))
    else:
        Console(highlight=False).print(figure_table("Choices", figures))


def _compare(options: Compare) -> None:
    names = options.models or []
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"compare: wanted two or more different models, got {names or 'none'}.")
    from safelight.checkpoints import load
    from safelight.evaluation.comparison import compare, with_figures, write_comparison
    from safelight.evaluation.generation import Plan
    from safelight.files import check_writable
    from safelight.progress import Bars

    check_writable(options.out)
    settings = Settings(
        steps=options.steps,
        seed=options.seed,
        guidance=options.guidance,
        sampler=options.sampler,
    )
    plan = Plan(settings, size=options.size or 0, repeats=options.bootstrap)
    with Bars(err, options.quiet) as bars:
        where = (options.device, options.precision)
        models = {name: load(name, *where, progress=bars.report) for name in names}
        first = models[names[0]]
        held_out, training = _references(options, first, bars)
        prompts = _prompts(options, held_out)
        result = compare(models, prompts, options.seeds, plan, bars.report)
        if held_out is not None:
            networks = build_networks(options.features, first)
            pictures = (held_out, training)
            result = with_figures(result, models, networks, pictures, plan, bars.report)
    shuffle = random.SystemRandom() if options.blind else None
    written = write_comparison(result, options.out, shuffle)
    _show(options, result, written)


def _show(options: Compare, result: Any, written: list[Path]) -> None:
    from safelight.evaluation.comparison import comparison_facts, figure_rows

    if options.as_json:
        facts = {} if options.blind else comparison_facts(result)
        facts = facts | {"files": [str(path) for path in written]}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not options.blind:
        table = Table("figure", *result.models)
        for cells in figure_rows(result.figures):
            table.add_row(*cells)
        console.print(table)
    console.print("Written: " + ", ".join(map(str, written)), soft_wrap=True)


def _references(
    options: Compare, model: "LatentDiffusion", bars: Any
) -> "tuple[Reference | None, Reference | None]":
    from safelight.evaluation.reference import Columns, reference, shared_pictures

    if not options.data:
        return None, None
    size = options.size or model.card.size[0]
    source = picture_folder(options.data, options.only)
    held_out = reference(source, Columns(), size, options.count, bars.report, "held-out pictures")
    if not options.train_only:
        return held_out, None
    source = picture_folder(options.data, options.train_only)
    training = reference(source, Columns(), size, 10**9, bars.report, "training pictures")
    shared_pictures(held_out, training)
    return held_out, training


def _prompts(options: Compare, held_out: "Reference | None") -> list[str]:
    prompts = [*(options.prompt or []), *(read_lines(options.prompts) if options.prompts else [])]
    if not prompts and held_out is not None:
        count = min(8, len(held_out))
        prompts = [held_out.captions[place * len(held_out) // count] for place in range(count)]
    if not prompts:
        raise BadInput("compare: name prompts with --prompt or --prompts, or pictures with --data.")
    return prompts
