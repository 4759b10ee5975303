"""What was found of a denoiser: as JSON, as Markdown with sheets and curves, as tables for
people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from safelight.evaluation.generation import Evaluation
from safelight.evaluation.intervals import Figure
from safelight.files import write_text, writing

SHARES = (
    "precision",
    "recall",
    "coverage",
    "true picture",
    "atom:",
    "near-copies",
    "judge:",
    "chosen:",
)
SECTIONS = {
    "obedience": "Obedience",
    "atoms": "Atoms of prompts",
    "memorisation": "Memorisation",
    "diversity": "Diversity over seeds",
    "speed": "Speed and memory",
    "judge": "Verdicts of an outside judge",
}
CAPTIONS = {
    "samples": "Held-out pictures, samples of their captions, and the nearest caption's picture.",
    "nearest": "The samples that are nearest to training pictures, each beside that picture.",
    "atoms": "Some atoms: green where all that was asked for was found.",
    "seeds": "A prompt a row, a seed a column.",
    "curves": "Curves over steps and guidance.",
}


def write_evaluation(evaluation: Evaluation, path: Path) -> list[Path]:
    """``path`` as Markdown with its sheets, and the facts as .json, beside each other; what was
    written."""
    stem = path.with_suffix("")
    written = []
    for name, picture in evaluation.sheets.items():
        target = stem.with_name(f"{stem.name}-{name}.png")
        with writing(target) as aside:
            picture.save(aside, format="PNG", optimize=True)
        written.append(target)
    curves = stem.with_name(f"{stem.name}-curves.png")
    if evaluation.facts.get("curves") and plot_curves(evaluation.facts["curves"], curves):
        written.append(curves)
    facts = json.dumps(evaluation.facts, indent=2, ensure_ascii=False) + "\n"
    write_text(path.with_suffix(".json"), facts)
    names = {file.stem.removeprefix(f"{stem.name}-"): file.name for file in written}
    write_text(path.with_suffix(".md"), page(evaluation.facts, names))
    return [path.with_suffix(".md"), path.with_suffix(".json"), *written]


def tables(facts: Mapping[str, Any]) -> list[Table]:
    """All figures for people."""
    shown_tables = []
    for network, rows in facts.get("distribution", {}).items():
        table = Table(title=f"{headline(facts)}, over {network}", title_justify="left")
        for column in ("figure", *(row["set"] for row in rows)):
            table.add_column(column)
        for cells in _distribution_cells(rows):
            table.add_row(*cells)
        shown_tables.append(table)
    for key, title in SECTIONS.items():
        if facts.get(key):
            shown_tables.append(figure_table(title, [_figure(values) for values in facts[key]]))
    return shown_tables


def figure_table(title: str, figures: Sequence[Figure]) -> Table:
    """A table of figures for people."""
    table = Table("figure", "value", "chance", "count", title=title, title_justify="left")
    for figure in figures:
        table.add_row(*_cells(figure))
    return table


def page(facts: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The Markdown report."""
    lines = [f"# {headline(facts)}", "", *_introduction(facts), ""]
    for network, rows in facts.get("distribution", {}).items():
        sets = [row["set"] for row in rows]
        lines += [f"## Over {network}", ""]
        lines += [markdown_row("figure", *sets), markdown_row("---", *("---" for _ in sets))]
        lines += [markdown_row(*cells) for cells in _distribution_cells(rows)]
        lines += _notes([_figure(values) for row in rows for values in row["figures"]])
        lines += [""]
    for key, title in SECTIONS.items():
        if facts.get(key):
            figures = [_figure(values) for values in facts[key]]
            lines += [f"## {title}", "", markdown_row("figure", "value", "chance", "pictures")]
            lines += [markdown_row("---", "---", "---", "---")]
            lines += [markdown_row(*_cells(figure)) for figure in figures]
            lines += [*_notes(figures), ""]
    for name, points in facts.get("curves", {}).items():
        lines += [*_curve_table(name, points), ""]
    for name, file in pictures.items():
        lines += [CAPTIONS.get(name, name), "", f"![{name}]({file})", ""]
    return "\n".join(lines)


def plot_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> bool:
    """Draw the curves to a PNG; without matplotlib (extra ``plot``) nothing is drawn."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        return False
    canvas = Canvas(figsize=(4.6 * len(curves), 5.2), layout="constrained")
    axes = canvas.subplots(2, len(curves), squeeze=False)
    for column, (name, points) in enumerate(curves.items()):
        at = [point[name] for point in points]
        series = zip(
            *([_figure(values) for values in point["figures"]] for point in points), strict=True
        )
        for figures in series:
            title = figures[0].name
            if title.startswith("seconds"):
                continue
            panel, scale = (axes[1][column], 100) if "picture" in title else (axes[0][column], 1000)
            values = [scale * figure.value for figure in figures]
            low = [scale * (figure.value - (figure.low or 0)) for figure in figures]
            high = [scale * ((figure.high or 0) - figure.value) for figure in figures]
            panel.errorbar(at, values, [low, high], marker="o", capsize=3, label=title)
        for panel, label in ((axes[0][column], "kernel distance × 1000"), (axes[1][column], "%")):
            panel.set_ylabel(label, fontsize=9)
            panel.set_xlabel(name, fontsize=9)
            panel.grid(alpha=0.3)
            panel.tick_params(labelsize=8)
        axes[1][column].set_ylim(0, 100)
        axes[1][column].legend(fontsize=8)
    with writing(path) as aside:
        canvas.savefig(aside, format="png", dpi=110)
    return True


def _curve_table(name: str, points: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = [[_figure(values) for values in point["figures"]] for point in points]
    titles = [_title(figure, figure.name) for figure in columns[0]]
    lines = [f"## Over {name}", "", markdown_row(name, *titles)]
    lines += [markdown_row("---", *("---" for _ in titles))]
    for point, figures in zip(points, columns, strict=True):
        lines += [markdown_row(f"{point[name]:g}", *(value_text(figure) for figure in figures))]
    return lines


def headline(facts: Mapping[str, Any]) -> str:
    """What was judged, in one line."""
    data = facts.get("data", {}).get("held_out")
    names = ", ".join(Path(path).name for path in data["paths"]) if data else ""
    on = f" on {data['judged']} held-out pictures of {names}" if data else ""
    return f"The {facts['judged']} of {facts['model']['name']}{on}"


def _introduction(facts: Mapping[str, Any]) -> list[str]:
    model, settings = facts["model"], facts["settings"]
    sizes = ", ".join(f"{name} {count:,}" for name, count in model["parameters"].items())
    how = ", ".join(
        f"{name} {value['kind'] if isinstance(value, Mapping) else value}"
        for name, value in settings.items()
    )
    lines = [
        f"Judged is the denoiser, with the parts around it. Parameters: {sizes}; "
        f"{model['precision']}. Licence: {model['licence']}.",
        "",
        f"Settings: {how}; guidance {_options(settings['guidance'])}; seeds from {facts['seed']}.",
    ]
    data = facts.get("data")
    if data:
        lines += [
            "",
            f"{facts['samples']} samples of the captions of {data['held_out']['judged']} held-out "
            f"pictures: {data['framing']}. Figures in brackets are 95 % intervals.",
        ]
        if data["held_out_among_training"]:
            count = data["held_out_among_training"]
            lines += [
                "",
                f"{count} of the held-out pictures are also training pictures, byte for byte.",
            ]
    return lines


def _options(slot: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in slot.items() if name != "kind")
    return options or "without options"


def _distribution_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    names = [figure["name"] for figure in rows[0]["figures"]]
    table = []
    for place, name in enumerate(names):
        figures = [_figure(row["figures"][place]) for row in rows]
        table.append([_title(figures[0], name), *(value_text(figure) for figure in figures)])
    return table


def _title(figure: Figure, name: str) -> str:
    scaled = " × 1000" if name == "kernel distance" else ""
    return f"{name}{scaled} ({figure.count} pictures)"


def value_text(figure: Figure) -> str:
    """A figure with its interval: shares in per cent, kernel distances a thousandfold."""
    if figure.name == "kernel distance":
        low, high = (
            None if number is None else 1000 * number for number in (figure.low, figure.high)
        )
        return Figure("", 1000 * figure.value, low, high).text()
    return figure.text(percent=figure.name.startswith(SHARES))


def _cells(figure: Figure) -> tuple[str, str, str, str]:
    chance = "" if figure.chance is None else f"{100 * figure.chance:.0f} %"
    features = f" ({figure.features})" if figure.features else ""
    return figure.name + features, value_text(figure), chance, str(figure.count)


def _notes(figures: Sequence[Figure]) -> list[str]:
    """What stands below a table, each remark once, with the figures that it is about."""
    about: dict[str, list[str]] = {}
    for figure in figures:
        if figure.note and figure.name not in about.setdefault(figure.note, []):
            about[figure.note].append(figure.name)
    return [line for note, names in about.items() for line in ("", f"{', '.join(names)}: {note}.")]


def _figure(values: Mapping[str, Any]) -> Figure:
    return Figure(
        values["name"],
        values["value"],
        values["low"],
        values["high"],
        values["count"],
        values["features"],
        values["chance"],
        values["checker"],
        values["note"],
    )


def markdown_row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
