"""The commands of tasks, such as ``generate``, made from the fields of each task."""

import json
import logging
import re
import time
from dataclasses import Field, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from safelight import scheduler_names
from safelight.cli.options import (
    DEVICE,
    HINT,
    JSON,
    MODEL,
    PRECISION,
    QUIET,
    VERBOSE,
    err,
    hints,
    require_png,
)
from safelight.errors import BadInput
from safelight.settings import Settings

logger = logging.getLogger(__name__)

ALIASES = {
    "negative": ["--negative-prompt"],
    "steps": ["--num-inference-steps"],
    "guidance": ["--guidance-scale", "--cfg"],
    "count": ["-n"],
}
"""What other programs call an option, by ours."""

CONTROL = "FILE=PICTURE[:KIND][:SCALE]"
IMAGE_PROMPT = "FILE=PICTURE[,PICTURE][:SCALE]"
PLAIN_TYPES = (str, bool, int, float, int | None, float | None, bool | None)

Option = tuple[str, Any, Any]
"""The name, the annotated type and the default of a command's option."""


def command(task: type[Any]) -> type:
    """The command of a task as a dataclass, whose fields are the command's options.

    They are those of the task, those of ``Settings``, and those that all tasks have.
    """
    sized = {"width", "height"} <= {item.name for item in fields(task)}
    own = [item for item in fields(task) if item.name not in ("width", "height")]
    options = [_option(task, item, argument=number == 0) for number, item in enumerate(own)]
    options += _size_options() if sized else []
    options += [_option(Settings, item) for item in fields(Settings)]
    options += _common_options()

    def perform(self: Any) -> None:
        values = vars(self)
        size = _size(values["size"], values["width"], values["height"]) if sized else Size()
        sides = {"width": size.width, "height": size.height} if sized else {}
        request = task(**{item.name: values[item.name] for item in own}, **sides)
        settings = Settings(**{item.name: values[item.name] for item in fields(Settings)})
        if self.scheduler is not None:
            settings = _scheduled(settings, self.scheduler)
        _run(request, settings, size, self)

    made = make_dataclass(f"Command{task.__name__}", options, namespace={"__post_init__": perform})
    made.__doc__ = f"{task.__doc__}\n\nExample: safelight {task.verb} {task.example}"
    return made


def _option(cls: type[Any], item: Field[Any], argument: bool = False) -> Option:
    """A field as a command's option, or as its argument; what a slot reads is text here."""
    hint = get_type_hints(cls)[item.name]
    kind = hint if hint in PLAIN_TYPES else str | None
    meaning = item.metadata["help"]
    if argument:
        return item.name, Annotated[kind, typer.Argument(help=meaning)], item.default
    names = [f"--{item.name}", *ALIASES[item.name]] if item.name in ALIASES else []
    return item.name, Annotated[kind, typer.Option(*names, help=meaning)], item.default


def _size_options() -> list[Option]:
    size = typer.Option(
        metavar="N or WxH",
        help="Width and height in pixels: 512 or 768x512. Default: the model's own size.",
    )
    width = typer.Option(help="Width in pixels, instead of --size.")
    height = typer.Option(help="Height in pixels, instead of --size.")
    return [
        ("size", Annotated[str | None, size], field(default=None)),
        ("width", Annotated[int | None, width], field(default=None)),
        ("height", Annotated[int | None, height], field(default=None)),
    ]


def _common_options() -> list[Option]:
    scheduler = typer.Option(
        metavar="NAME",
        help=(
            "Sampler and spacing by the names of web UIs, ComfyUI or diffusers, instead of "
            '--sampler and --spacing: "DPM++ 2M Karras", "Euler a", euler_ancestral, '
            "DPMSolverMultistepScheduler."
        ),
    )
    out = typer.Option(
        "--out", "-o", help="The PNG to write; several get -1, -2, … in their names."
    )
    weak = typer.Option(
        metavar="MODEL",
        help=(
            "A weaker version of the model, away from which autoguidance steers: "
            "--guidance autoguidance:scale=2 --weak runs/early/model."
        ),
    )
    embedding = _repeatable(
        "A textual-inversion embedding and the word that stands for it in prompts "
        "(default: the file's name).",
        "--embedding",
        metavar="FILE[:NAME]",
    )
    lora = _repeatable(
        "A LoRA to merge into the model, and how strongly: --lora ink.safetensors:0.8.",
        "--lora",
        metavar="FILE[:SCALE]",
    )
    image_prompt = _repeatable(
        "An IP-Adapter file and the pictures to follow: --image-prompt ip-adapter.bin=fox.png:0.6.",
        "--image-prompt",
        metavar=IMAGE_PROMPT,
    )
    control = _repeatable(
        "A ControlNet or T2I-Adapter file and the picture that guides the layout: "
        "--control canny.safetensors=edges.png:0.8.",
        "--control",
        metavar=CONTROL,
    )
    old_embedding = Annotated[
        list[str] | None, typer.Option("--word", hidden=True, help="--embedding")
    ]
    return [
        ("scheduler", Annotated[str | None, scheduler], None),
        ("out", Annotated[Path, out], Path("out.png")),
        ("model", MODEL, None),
        ("hint", HINT, None),
        ("lora", lora, None),
        ("embedding", embedding, None),
        ("word", old_embedding, None),
        ("image_prompt", image_prompt, None),
        ("control", control, None),
        ("weak", Annotated[str | None, weak], None),
        ("device", DEVICE, "auto"),
        ("precision", PRECISION, "auto"),
        ("as_json", JSON, False),
        ("quiet", QUIET, False),
        ("verbose", VERBOSE, 0),
    ]


def _repeatable(meaning: str, flag: str, metavar: str) -> Any:
    option = typer.Option(flag, metavar=metavar, help=f"{meaning} Repeat it for several.")
    return Annotated[list[str] | None, option]


class Size(NamedTuple):
    """In pixels; None where the model's own size holds."""

    width: int | None = None
    height: int | None = None


def _size(size: str | None, width: int | None, height: int | None) -> Size:
    if size is None:
        return Size(width, height)
    if width is not None or height is not None:
        raise BadInput("--size: wanted --size or --width and --height, got both; leave one out.")
    sides = re.fullmatch(r"(\d{1,9})(?:[x×](\d{1,9}))?", size.strip().lower())
    if sides is None:
        raise BadInput(f"--size: wanted pixels such as 128 or 160x128, got {size!r}.")
    return Size(int(sides[1]), int(sides[2] or sides[1]))


def _scheduled(settings: Settings, name: str) -> Settings:
    """The settings with the sampler and the spacing of ``--scheduler``."""
    scheduler = {key: value for key, value in scheduler_names.read(name)._asdict().items() if value}
    for key, value in scheduler.items():
        if (other := vars(settings)[key]) is not None:
            raise BadInput(
                f"--scheduler: {name!r} stands for the {key} {value!r}, but --{key} {other} was "
                "given as well; leave one out."
            )
    return replace(settings, **scheduler)


def _run(task: Any, settings: Settings, size: Size, options: Any) -> None:
    """Carry out a task, save its pictures with their recipes and print their names."""
    require_png(options.out)
    from safelight.files import check_writable
    from safelight.media.pictures import write_png
    from safelight.pipeline import generate, recipe, resolve
    from safelight.progress import Bars

    check_writable(options.out)
    begin = time.perf_counter()
    model = _load(size, options)
    settings = resolve(model, settings)
    logger.info("loaded %s in %.1f s", model.card.name, time.perf_counter() - begin)
    logger.info("%s", task)
    logger.info("%s", settings)
    begin = time.perf_counter()
    with Bars(err, options.quiet) as bars:

        def progress(step: Any) -> None:
            bars.report("sampling", step.index + 1, step.total)
            logger.debug("step %d of %d", step.index + 1, step.total)

        pictures = generate(model, task, settings, progress)
    logger.info("made %d in %.1f s", len(pictures), time.perf_counter() - begin)
    results: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures):
        path = options.out
        if len(pictures) > 1:
            path = path.with_stem(f"{path.stem}-{index + 1}")
        made_by = recipe(model, task, settings, index)
        write_png(picture, path, made_by)
        results.append({"file": str(path), "recipe": made_by})
    names = "\n".join(result["file"] for result in results)
    typer.echo(json.dumps(results, indent=2, ensure_ascii=False) if options.as_json else names)


def _load(size: Size, options: Any) -> Any:
    """The model with everything that the options attach to it."""
    from safelight.checkpoints import load
    from safelight.progress import Bars

    where = (options.device, options.precision)
    facts = hints(options.hint)
    with Bars(err, options.quiet) as bars:
        model = load(options.model or "stickers", *where, facts, bars.report)
        if options.weak is not None:
            model = replace(
                model, companions={"weak": load(options.weak, *where, progress=bars.report)}
            )
    return _attached(model, size, options, facts)


def _attached(model: Any, size: Size, options: Any, facts: dict[str, Any]) -> Any:
    """The model with the LoRAs, embeddings, image prompts and control of the options."""
    embeddings = [*(options.embedding or ()), *(options.word or ())]
    if not any((options.lora, embeddings, options.image_prompt, options.control)):
        return model
    from safelight.attachments import attach, specs

    return attach(
        model,
        loras=[specs.LoraSpec.parse(text) for text in options.lora or ()],
        embeddings=[specs.EmbeddingSpec.parse(text) for text in embeddings],
        image_prompts=[specs.ImagePromptSpec.parse(text) for text in options.image_prompt or ()],
        controls=[specs.ControlSpec.parse(text) for text in options.control or ()],
        size=(size.width, size.height),
        hints=facts,
    )
