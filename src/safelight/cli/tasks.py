"""The verbs of tasks, made of their fields: generate and its like."""

import json
import re
from dataclasses import Field, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from safelight.cli.options import HINT, JSON, MODEL, QUIET, demand_png, err, hints
from safelight.errors import BadInput
from safelight.settings import Settings

PICTURES = "FILE=PICTURE[,PICTURE][:SCALE]"


def verb(task: type[Any]) -> type:
    """The command of a task, as a dataclass: its fields are the task's, those of ``Settings`` and these."""
    sized = {"width", "height"} <= {one.name for one in fields(task)}
    own = [one for one in fields(task) if one.name not in ("width", "height")]
    options = [_option(task, one, argument=number == 0) for number, one in enumerate(own)]
    size = Annotated[
        str | None,
        typer.Option(metavar="N or WxH", help="In pixels. Default: the model's own size."),
    ]
    options += [("size", size, field(default=None))] if sized else []
    options += [_option(Settings, one) for one in fields(Settings)]
    options += [
        (
            "out",
            Annotated[Path, typer.Option("--out", "-o", help="A PNG; more get -1, -2, …")],
            Path("out.png"),
        ),
        ("model", MODEL, None),
        ("hint", HINT, None),
        (
            "lora",
            _several("--lora", "FILE[:SCALE]", "A low-rank adapter to merge, at this scale."),
            None,
        ),
        ("word", _several("--word", "FILE[:NAME]", "A learned word (textual inversion)."), None),
        (
            "image_prompt",
            _several("--image-prompt", PICTURES, "An IP-Adapter, and what it is shown."),
            None,
        ),
        (
            "control",
            _several("--control", "FILE=PICTURE[:KIND][:SCALE]", "A ControlNet or T2I-adapter."),
            None,
        ),
        (
            "weak",
            Annotated[str | None, typer.Option(help="A weaker model beside it, for autoguidance.")],
            None,
        ),
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

    command = make_dataclass(
        f"Command{task.__name__}", options, namespace={"__post_init__": perform}
    )
    command.__doc__ = f"{task.__doc__}\n\nExample: safelight {task.verb} {task.example}"
    return command


def _several(flag: str, metavar: str, meaning: str) -> Any:
    return Annotated[
        list[str] | None, typer.Option(flag, metavar=metavar, help=f"{meaning} May be given again.")
    ]


def _option(cls: type[Any], one: Field[Any], argument: bool = False) -> tuple[str, Any, Any]:
    """A field as a command's option, or as its argument; what a slot reads is given as text."""
    hint = get_type_hints(cls)[one.name]
    kind = (
        hint
        if hint in (str, bool, int, float, int | None, float | None, bool | None)
        else str | None
    )
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
    demand_png(options.out)
    from safelight.attachments.apply import adapted, controlled, prompted
    from safelight.checkpoints import load
    from safelight.files import check_writable
    from safelight.media.pictures import write_png
    from safelight.pipeline import generate, recipe, resolve
    from safelight.progress import Bars

    check_writable(options.out)
    with Bars(err, options.quiet) as bars:
        where = (options.device, options.precision)
        model = load(options.model or "stickers", *where, hints(options.hint), bars.report)
        if options.weak is not None:
            model = replace(model, beside={"weak": load(options.weak, *where, report=bars.report)})
    model = adapted(model, options.lora or (), options.word or ())
    for one in options.image_prompt or ():
        model = prompted(model, one, hints(options.hint))
    for one in options.control or ():
        model = controlled(model, one, *_sides(vars(options).get("size")))
    settings = resolve(model, settings)
    with Bars(err, options.quiet) as bars:
        pictures = generate(
            model, task, settings, lambda step: bars.report("sampling", step.index + 1, step.total)
        )
    made: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures):
        path = (
            options.out
            if len(pictures) == 1
            else options.out.with_stem(f"{options.out.stem}-{index + 1}")
        )
        how = recipe(model, task, settings, index)
        write_png(picture, path, how)
        made.append({"file": str(path), "recipe": how})
    names = "\n".join(one["file"] for one in made)
    typer.echo(json.dumps(made, indent=2, ensure_ascii=False) if options.as_json else names)
