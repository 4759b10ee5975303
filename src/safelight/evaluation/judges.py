"""Judges from outside, in the manner of GenEval (Ghosh et al., arXiv 2310.11513).

The judge and its prompts are the user's. ``write_folder`` lays out samples as GenEval's evaluator
reads them; it, or any other program, answers with a line of JSON for each picture, and
``judge_figures`` counts these. In Python a judge is a function that says whether a picture is
right.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safelight.errors import BadInput
from safelight.evaluation.intervals import Figure, share
from safelight.files import writing_folder
from safelight.media.pictures import to_pictures
from safelight.types.tensors import Images

Judge = Callable[[Image.Image, Mapping[str, Any]], bool]
"""A picture and the row of metadata that it was made from → whether it shows what was asked for."""


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, each with a ``prompt`` and perhaps a ``tag`` (GenEval's
    ``evaluation_metadata.jsonl``). BadInput names the line that is not so."""
    return _rows(path, "prompt")


def write_folder(
    path: Path, rows: Sequence[Mapping[str, Any]], images: Images, count: int = 1
) -> None:
    """Samples as GenEval reads them: ``00000/metadata.jsonl`` and ``00000/samples/0000.png``, …

    ``images`` are ``count`` for each row, one row after the other.
    """
    pictures = to_pictures(images)
    with writing_folder(path) as aside:
        for number, row in enumerate(rows):
            folder = aside / f"{number:05}"
            (folder / "samples").mkdir(parents=True)
            text = json.dumps(row, ensure_ascii=False)
            (folder / "metadata.jsonl").write_text(f"{text}\n", encoding="utf-8")
            for seed in range(count):
                picture = pictures[number * count + seed]
                picture.save(folder / "samples" / f"{seed:04}.png", format="PNG")


def judge_pictures(
    judge: Judge, rows: Sequence[Mapping[str, Any]], images: Images
) -> list[dict[str, Any]]:
    """The verdicts of a judge in Python, as rows of ``tag`` and ``correct``."""
    return [
        {"tag": row.get("tag", ""), "correct": bool(judge(picture, row))}
        for row, picture in zip(rows, to_pictures(images), strict=True)
    ]


def read_verdicts(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, each with ``correct`` and perhaps a ``tag`` (GenEval's
    ``results.jsonl``). BadInput names the line that is not so."""
    rows = _rows(path, "correct")
    for number, row in enumerate(rows, 1):
        if not isinstance(row["correct"], bool):
            raise BadInput(f"{path.name}: line {number}: correct must be true or false.")
    return rows


def judge_figures(verdicts: Iterable[Mapping[str, Any]], judge: str) -> list[Figure]:
    """The share of pictures that the judge calls right: of each tag, then the mean over tags, which
    is GenEval's overall score."""
    tags: dict[str, list[bool]] = defaultdict(list)
    for row in verdicts:
        tags[str(row.get("tag", ""))].append(bool(row["correct"]))
    if not tags:
        raise BadInput("verdicts: wanted at least one, got none.")
    figures = [
        share(f"judge: {tag or 'all'}", sum(right), len(right))
        for tag, right in sorted(tags.items())
    ]
    count = sum(len(right) for right in tags.values())
    if len(figures) > 1:
        overall = sum(figure.value for figure in figures) / len(figures)
        figures.append(Figure("judge: mean over tags", overall, count=count))
    return [
        Figure(figure.name, figure.value, figure.low, figure.high, figure.count, features=judge)
        for figure in figures
    ]


def _rows(path: Path, key: str) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{str(path)!r} cannot be read: {error}.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path.name}: line {number} is not JSON ({error}).") from None
        if not isinstance(row, dict) or key not in row:
            raise BadInput(f"{path.name}: line {number} has no {key!r}.")
        rows.append(row)
    if not rows:
        raise BadInput(f"{path.name} holds no rows; wanted lines of JSON with {key!r}.")
    return rows
