"""``safelight evaluate``: how good a model is, on pictures that it was not trained on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from safelight.cli.options import DEVICE, HINT, JSON, PRECISION, QUIET, VERBOSE, err, hints
from safelight.errors import BadInput
from safelight.settings import Settings

if TYPE_CHECKING:
    from safelight.data.sources.folder import Config as FolderConfig
    from safelight.model import LatentDiffusion
    from safelight.types.networks import Features

PARTS = ("auto", "denoiser", "autoencoder")

DATA = Annotated[
    list[Path] | None,
    typer.Argument(help="Folders or zips of held-out pictures with captions.", metavar="[DATA]..."),
]
ONLY = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="KEY=VALUE", help="Pictures whose metadata say so."),
]
TRAIN = Annotated[
    list[Path] | None,
    typer.Option("--train", help="Training pictures, for the baselines. Default: those of DATA."),
]
TRAIN_ONLY = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Training pictures are those whose metadata say so."),
]
FEATURES = Annotated[
    list[str] | None,
    typer.Option(
        "--features",
        metavar="KIND[:OPTION=VALUE]",
        help="Feature network: mobilenet, tiny-darknet, dinov2:weights=FILE, "
        "inception:weights=FILE, clip:weights=FILE. May be given again; the first decides what "
        "one network decides.",
        show_default="mobilenet",
    ),
]


@dataclass
class Evaluate:
    """Say how good a model is: its denoiser against held-out pictures, or what its autoencoder
    loses.

    A model with a denoiser is judged as a whole; one without, or with --part autoencoder, by what
    comes back of pictures. Writes a report with sheets.

    Example: safelight evaluate stickers emoji.zip --only split=val_pair --train-only split=train
    """

    model: Annotated[str, typer.Argument(help="A name, folder or file.")]
    data: DATA = None
    part: Annotated[str, typer.Option(help="auto, denoiser or autoencoder.")] = "auto"
    only: ONLY = None
    train: TRAIN = None
    train_only: TRAIN_ONLY = None
    features: FEATURES = None
    clip: Annotated[
        Path | None, typer.Option(help="A CLIP with both encoders (safetensors), for its score.")
    ] = None
    size: Annotated[
        int | None, typer.Option(help="Side of the squares. Default: the model's own.")
    ] = None
    count: Annotated[
        int,
        typer.Option("--count", "-n", min=1, help="At most this many pictures, spread evenly."),
    ] = 5000
    samples: Annotated[
        int,
        typer.Option(min=0, help="Samples in all, over the captions in turn. Default: one each."),
    ] = 0
    style_key: Annotated[
        str | None, typer.Option(help="Metadata key of a picture's style.", show_default="style")
    ] = None
    thing_key: Annotated[
        str | None, typer.Option(help="Metadata key of what it shows.", show_default="name")
    ] = None
    group_key: Annotated[
        str | None, typer.Option(help="Metadata key of its group.", show_default="group")
    ] = None
    prompts: Annotated[
        Path | None, typer.Option(help="A prompt a line, to judge without DATA.")
    ] = None
    steps: Annotated[int | None, typer.Option(help="Of the sampler. Default: the card's.")] = None
    guidance: Annotated[str | None, typer.Option(help="Default: the model card's.")] = None
    sampler: Annotated[str | None, typer.Option(help="Default: the model card's.")] = None
    seed: Annotated[int, typer.Option(min=0, help="Of the first picture.")] = 0
    things: Annotated[int, typer.Option(min=0, help="Things asked for by atoms; 0: none.")] = 24
    seeds: Annotated[int, typer.Option(min=0, help="Seeds a prompt, for diversity; 0: none.")] = 4
    curve_steps: Annotated[
        str, typer.Option(metavar="N,N,…", help="Draw figures over these numbers of steps.")
    ] = ""
    curve_guidance: Annotated[
        str, typer.Option(metavar="S,S,…", help="Draw figures over these guidance scales.")
    ] = ""
    curve_count: Annotated[int, typer.Option(min=2, help="Prompts for a point of a curve.")] = 48
    bootstrap: Annotated[int, typer.Option(min=20, help="Bootstrap samples.")] = 1000
    judge_prompts: Annotated[
        Path | None,
        typer.Option(
            help="Make samples for an outside judge: GenEval's evaluation_metadata.jsonl."
        ),
    ] = None
    judge_count: Annotated[int, typer.Option(min=1, help="Samples a prompt, for the judge.")] = 4
    judge_results: Annotated[
        Path | None, typer.Option(help="Count a judge's verdicts: GenEval's results.jsonl.")
    ] = None
    batch: Annotated[int, typer.Option(min=1, help="Pictures sampled together.")] = 8
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Report .md; .json and pictures beside it.")
    ] = Path("report.md")
    skip_broken: Annotated[
        bool, typer.Option(help="Leave out pictures that cannot be read, and name them.")
    ] = False
    hint: HINT = None
    device: DEVICE = "auto"
    precision: PRECISION = "auto"
    as_json: JSON = False
    quiet: QUIET = False
    verbose: VERBOSE = 0

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise BadInput(f"--part: wanted {', '.join(PARTS)}, got {self.part!r}.")
        from safelight.checkpoints import load
        from safelight.files import check_writable
        from safelight.progress import Bars

        check_writable(self.out)
        with Bars(err, self.quiet) as bars:
            model = load(self.model, self.device, self.precision, hints(self.hint), bars.report)
            has_denoiser = model.denoiser is not None and self.part != "autoencoder"
            if self.part == "denoiser" and model.denoiser is None:
                raise BadInput(f"the model {model.card.name!r} has no denoiser to judge.")
            facts, result_tables = (_denoiser if has_denoiser else _autoencoder)(self, model, bars)
        if self.as_json:
            typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
            return
        console = Console(highlight=False)
        for table in result_tables:
            console.print(table)
        console.print(f"The report is {self.out}.", soft_wrap=True)


def _autoencoder(options: Evaluate, model: "LatentDiffusion", bars: Any) -> tuple[Any, list[Any]]:
    """Judge what an autoencoder loses."""
    from safelight.evaluation import report

    if not options.data:
        raise BadInput("an autoencoder is judged on pictures: name a folder or zip of them.")
    size = model.card.size[0] if options.size is None else options.size
    source = picture_folder(options.data, options.only, options.skip_broken).build()
    result = report.reconstruction(model, source, size, options.count, bars.report)
    report.write(result, options.out)
    return result.facts, [report.table(result)]


def _denoiser(options: Evaluate, model: "LatentDiffusion", bars: Any) -> tuple[Any, list[Any]]:
    """Judge a denoiser, with what its outside judge needs or answered."""
    from safelight.evaluation.generation import Evaluation
    from safelight.evaluation.generation_report import tables, write_evaluation
    from safelight.evaluation.judges import judge_figures, read_prompts, read_verdicts

    verdicts = read_verdicts(options.judge_results) if options.judge_results else None
    rows = read_prompts(options.judge_prompts) if options.judge_prompts else []
    result = _evaluation(options, model, bars)
    facts = dict(result.facts)
    if rows:
        facts["judge_folder"] = _for_judge(options, model, rows, bars)
    if verdicts is not None and options.judge_results is not None:
        figures = judge_figures(verdicts, options.judge_results.name)
        facts["judge"] = [vars(figure) for figure in figures]
    result = Evaluation(facts, result.sheets)
    write_evaluation(result, options.out)
    return facts, tables(facts)


def _evaluation(options: Evaluate, model: "LatentDiffusion", bars: Any) -> Any:
    from safelight.evaluation.generation import DenoiserEvaluation
    from safelight.evaluation.prompts_only import evaluate_prompts
    from safelight.evaluation.reference import Columns, reference
    from safelight.features.clip import Config as CLIPConfig

    plan = _plan(options)
    clip = CLIPConfig(str(options.clip)).build() if options.clip else None
    if not options.data:
        if options.prompts is None:
            raise BadInput(
                "a denoiser is judged against held-out pictures: name a folder or zip of them, or "
                "--prompts FILE for what can be said without."
            )
        return evaluate_prompts(
            model,
            read_lines(options.prompts),
            build_networks(options.features, model),
            plan,
            bars.report,
        )
    size = options.size or model.card.size[0]
    columns = Columns(options.style_key, options.thing_key, options.group_key)
    framing = (columns, size)
    held_out = reference(
        picture_folder(options.data, options.only, options.skip_broken),
        *framing,
        options.count,
        bars.report,
        "held-out pictures",
    )
    training = None
    if options.train or options.train_only:
        source = picture_folder(
            options.train or options.data, options.train_only, options.skip_broken
        )
        training = reference(source, *framing, 10**9, bars.report, "training pictures")
    networks = build_networks(options.features, model)
    return DenoiserEvaluation(
        model, networks, held_out, training, plan, bars.report, clip
    ).evaluate()


def _for_judge(
    options: Evaluate, model: "LatentDiffusion", rows: list[dict[str, Any]], bars: Any
) -> str:
    from functools import partial

    from safelight.evaluation.judges import write_folder
    from safelight.evaluation.sampling import sample
    from safelight.pipeline import resolve

    count = options.judge_count
    prompts = [str(row["prompt"]) for row in rows for _ in range(count)]
    settings = resolve(model, _settings(options))
    progress = partial(bars.report, "sampling for the judge")
    images = sample(model, prompts, settings, progress, options.size or 0, options.batch)
    path = options.out.with_name(f"{options.out.stem}-judge")
    write_folder(path, rows, images, count)
    return str(path)


def _settings(options: Evaluate) -> Settings:
    return Settings(
        steps=options.steps,
        seed=options.seed,
        guidance=options.guidance,
        sampler=options.sampler,
    )


def _plan(options: Evaluate) -> Any:
    from safelight.evaluation.generation import Plan

    return Plan(
        settings=_settings(options),
        size=options.size or 0,
        samples=options.samples,
        repeats=options.bootstrap,
        things=options.things,
        diversity_seeds=options.seeds,
        curve_prompts=options.curve_count,
        curve_steps=tuple(int(number) for number in numbers("--curve-steps", options.curve_steps)),
        curve_guidance=tuple(numbers("--curve-guidance", options.curve_guidance)),
        batch=options.batch,
    )


def picture_folder(
    paths: list[Path], only: list[str] | None, skip_broken: bool = False
) -> "FolderConfig":
    """The configuration of a source of pictures."""
    from safelight.data.sources.folder import Config as FolderConfig

    pairs = [pair.partition("=") for pair in only or ()]
    if wrong := [key for key, equals, value in pairs if not (key and equals and value)]:
        raise BadInput(f"--only: wanted KEY=VALUE such as split=val, got {wrong[0]!r}.")
    return FolderConfig(
        tuple(map(str, paths)),
        {key: value for key, _, value in pairs},
        broken="skip" if skip_broken else "refuse",
    )


def build_networks(kinds: list[str] | None, model: "LatentDiffusion") -> "list[Features]":
    """The feature networks that were named, on the model's device."""
    from safelight.config import Slot
    from safelight.model import module

    slot = Slot("features")
    networks = [slot.read(kind).build() for kind in kinds or ["mobilenet"]]
    device = next(module(model.denoiser).parameters()).device
    return [network.to(device) for network in networks]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty. BadInput if there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{str(path)!r} cannot be read: {error}.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise BadInput(f"{str(path)!r} holds no prompts; wanted one a line.")
    return prompts


def numbers(flag: str, text: str) -> list[float]:
    """Numbers between commas."""
    try:
        return [float(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise BadInput(f"{flag}: wanted numbers such as 4,8,12, got {text!r}.") from None
