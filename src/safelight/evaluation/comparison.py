"""Several models side by side: the same prompts and seeds, a table, and choices made blindly."""

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from safelight.errors import BadInput
from safelight.evaluation import sheets
from safelight.evaluation.generation import DenoiserEvaluation, Plan, about
from safelight.evaluation.generation_report import markdown_row, value_text
from safelight.evaluation.intervals import Figure, share
from safelight.evaluation.reference import Reference
from safelight.evaluation.sampling import sample, speed_figures
from safelight.files import write_text, writing
from safelight.media.pictures import to_pictures
from safelight.model import LatentDiffusion
from safelight.pipeline import resolve
from safelight.types.networks import Features
from safelight.types.tensors import Images

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What models made of the same prompts and seeds, and the figures of each.

    ``images`` hold, for each model, ``seeds`` pictures a prompt; ``figures`` are in one order.
    """

    models: Mapping[str, dict[str, Any]]
    prompts: Sequence[str]
    seeds: int
    seed: int
    images: Mapping[str, Images]
    figures: Mapping[str, Sequence[Figure]]

    @property
    def rows(self) -> list[tuple[str, int]]:
        """The prompt and the seed of each row of the sheet."""
        return [
            (prompt, self.seed + number * self.seeds + seed)
            for number, prompt in enumerate(self.prompts)
            for seed in range(self.seeds)
        ]


def compare(
    models: Mapping[str, LatentDiffusion],
    prompts: Sequence[str],
    seeds: int,
    plan: Plan,
    report: Progress,
) -> Comparison:
    """Pictures of the same prompts and seeds by each model, with its speed and size.

    Each model has its card's settings where the plan's say nothing. Picture i of a model has the
    seed ``seed + i`` whatever the model is.
    """
    every = [prompt for prompt in prompts for _ in range(seeds)]
    images, figures, descriptions = {}, {}, {}
    for name, model in models.items():
        settings = resolve(model, plan.settings)
        speed = speed_figures(model, prompts[0], settings, plan.speed_repeats, plan.batch, False)
        progress = partial(report, f"{name}: sampling")
        images[name] = sample(model, every, settings, progress, plan.size, plan.batch)
        descriptions[name] = about(model)
        size = sum(descriptions[name]["parameters"].values()) / 1e6
        figures[name] = [Figure("parameters, millions", size), *speed]
    sides = {tuple(pictures.shape[-2:]) for pictures in images.values()}
    if len(sides) > 1:
        raise BadInput(
            "compare: these models make pictures of different sizes; name one for all with --size."
        )
    return Comparison(descriptions, prompts, seeds, plan.settings.seed or 0, images, figures)


def with_figures(
    comparison: Comparison,
    models: Mapping[str, LatentDiffusion],
    networks: Sequence[Features],
    references: tuple[Reference, Reference | None],
    plan: Plan,
    report: Progress,
) -> Comparison:
    """The comparison with figures of each model against held-out pictures."""
    figures = {name: list(earlier) for name, earlier in comparison.figures.items()}
    for name, model in models.items():
        judging = DenoiserEvaluation(model, networks, *references, plan, _titled(report, name))
        figures[name] += [
            Figure(**figure)
            for network in networks
            for figure in judging.distribution(network)[0]["figures"]
        ]
        figures[name] += [
            rank for rank in judging.obedience() if "nearest caption" not in rank.name
        ]
        if references[1] is not None:
            figures[name] += judging.memorisation(references[1])[0]
    return replace(comparison, figures=figures)


def comparison_sheet(comparison: Comparison) -> Image.Image:
    """A row for each prompt and seed, a column for each model."""
    columns = [(name, to_pictures(pictures)) for name, pictures in comparison.images.items()]
    titles = [f"{prompt} (seed {seed})" for prompt, seed in comparison.rows]
    return sheets.rows_sheet(columns, titles)


def blind_sheet(
    comparison: Comparison, shuffle: random.Random
) -> tuple[Image.Image, dict[str, Any]]:
    """The sheet with the models of each row in an order of its own, and the key to it."""
    names = list(comparison.images)
    pictures = {name: to_pictures(images) for name, images in comparison.images.items()}
    orders = [shuffle.sample(names, len(names)) for _ in comparison.rows]
    columns = [
        (str(place + 1), [pictures[order[place]][row] for row, order in enumerate(orders)])
        for place in range(len(names))
    ]
    titles = [f"{row + 1}. {prompt}" for row, (prompt, _) in enumerate(comparison.rows)]
    key = {
        "models": names,
        "rows": [
            {"row": row + 1, "prompt": prompt, "seed": seed, "columns": orders[row]}
            for row, (prompt, seed) in enumerate(comparison.rows)
        ],
    }
    return sheets.rows_sheet(columns, titles), key


def choice_form(comparison: Comparison) -> str:
    """A table to fill in, as CSV: the column that is better in each row, or 0 for none."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["row", "prompt", "choice"])
    for row, (prompt, _) in enumerate(comparison.rows):
        writer.writerow([row + 1, prompt, ""])
    return lines.getvalue()


def count_choices(key: Mapping[str, Any], choices: Mapping[int, int]) -> list[Figure]:
    """How often each model was chosen among the rows that were decided, with Wilson's interval.

    ``choices`` are columns by row, from 1; 0 says that neither was better. BadInput for rows or
    columns that the key does not know.
    """
    orders = {row["row"]: row["columns"] for row in key["rows"]}
    models = list(key["models"])
    for row, choice in choices.items():
        if row not in orders or not 0 <= choice <= len(models):
            raise BadInput(
                f"choices: row {row}, column {choice}: wanted rows 1 to {len(orders)} and columns "
                f"1 to {len(models)}, or 0 for none."
            )
    wins = Counter(orders[row][choice - 1] for row, choice in choices.items() if choice)
    decided = sum(wins.values())
    if not decided:
        raise BadInput("choices: no row has a choice yet; write the better column into each row.")
    note = f"{decided} of {len(orders)} rows decided"
    return [
        replace(share(f"chosen: {name}", wins[name], decided, 1 / len(models)), note=note)
        for name in models
    ]


def read_choices(path: Path) -> dict[int, int]:
    """The choices of a filled-in form; rows without one are left out. BadInput for other files."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
        return {int(row["row"]): int(row["choice"]) for row in rows if row["choice"].strip()}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{str(path)!r} is not a filled-in form ({type(error).__name__}: {error}); wanted the "
            "CSV that compare --blind wrote, with a whole number in the column 'choice'."
        ) from None


def read_key(path: Path) -> dict[str, Any]:
    """The key that ``compare --blind`` kept apart. BadInput for other files."""
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(key, dict) and {"models", "rows"} <= key.keys():
            return key
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        pass
    raise BadInput(f"{str(path)!r} is not the key that compare --blind wrote.")


def write_comparison(
    comparison: Comparison, path: Path, shuffle: random.Random | None = None
) -> list[Path]:
    """``path`` as Markdown, its sheet and its facts beside it; what was written.

    With ``shuffle`` nothing of these tells which model is which: the key is a file of its own, the
    table of figures and the facts stand in it, and a form for choices is added.
    """
    stem = path.with_suffix("")
    if shuffle is None:
        _save(comparison_sheet(comparison), stem.with_suffix(".png"))
        write_text(path, _page(comparison, stem.with_suffix(".png").name))
        facts = json.dumps(comparison_facts(comparison), indent=2, ensure_ascii=False)
        write_text(stem.with_suffix(".json"), facts + "\n")
        return [path, stem.with_suffix(".json"), stem.with_suffix(".png")]
    picture, key = blind_sheet(comparison, shuffle)
    names = [
        stem.with_name(f"{stem.name}-{ending}")
        for ending in ("blind.png", "choices.csv", "key.json")
    ]
    _save(picture, names[0])
    write_text(names[1], choice_form(comparison))
    key["comparison"] = comparison_facts(comparison)
    write_text(names[2], json.dumps(key, indent=2, ensure_ascii=False) + "\n")
    return names


def comparison_facts(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values."""
    return {
        "what": "comparison",
        "models": dict(comparison.models),
        "prompts": list(comparison.prompts),
        "seeds": comparison.seeds,
        "seed": comparison.seed,
        "figures": {
            name: [asdict(figure) for figure in figures]
            for name, figures in comparison.figures.items()
        },
    }


def figure_rows(figures: Mapping[str, Sequence[Figure]]) -> list[list[str]]:
    """A row for each figure: its name, then its value for each model."""
    first = next(iter(figures.values()))
    rows = []
    for place, figure in enumerate(first):
        title = f"{figure.name} ({figure.features})" if figure.features else figure.name
        rows.append([title, *(value_text(of_model[place]) for of_model in figures.values())])
    return rows


def _titled(report: Progress, name: str) -> Progress:
    """The same report, of what a model does."""
    return lambda what, done, total: report(f"{name}: {what}", done, total)


def _page(comparison: Comparison, picture: str) -> str:
    names = list(comparison.models)
    lines = [f"# {' and '.join(names)}, side by side", ""]
    lines += [markdown_row("figure", *names), markdown_row("---", *("---" for _ in names))]
    lines += [markdown_row(*cells) for cells in figure_rows(comparison.figures)]
    lines += ["", "Figures in brackets are 95 % intervals; of seconds, the least and the most.", ""]
    lines += ["The same prompts and seeds, a column a model:", "", f"![sheet]({picture})", ""]
    return "\n".join(lines)


def _save(picture: Image.Image, path: Path) -> None:
    with writing(path) as aside:
        picture.save(aside, format="PNG", optimize=True)
