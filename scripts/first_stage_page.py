"""Judge small first stages and put their table and their sheet into docs/first-stage.md.

python scripts/first_stage_page.py runs/first-stage/kl-f4 runs/first-stage/kl-f8 …

Each run folder (recipes/first-stage/small) is judged on photographs and on emoji that none was
trained on.
"""

import argparse
import json
import re
from pathlib import Path

from PIL import Image, ImageDraw
from rich.console import Console

import safelight
from safelight.data.examples import Source
from safelight.data.sources.folder import Config as Folder
from safelight.evaluation import report
from safelight.files import write_text, writing
from safelight.media.pictures import read_picture, sheet
from safelight.model import LatentDiffusion, module
from safelight.progress import Bars

PAGE = Path(__file__).parent.parent / "docs" / "first-stage.md"
SHEET = PAGE.with_name("first_stage.png")
SIZE = 128
PHOTOGRAPHS = "data/caltech101-128/caltech101-128.zip"
EMOJI = tuple(
    f"data/emoji/emoji-{style}-128.zip" for style in ("fluent", "noto", "twemoji", "blob")
)
SHOWN = {  # label of the photograph → what is to be seen in it
    "stop_sign": "large letters",
    "dollar_bill": "small text",
    "leopards": "fur",
    "sea_horse": "thin lines",
    "watch": "figures",
    "bonsai": "leaves",
}
PAPER = {
    "KL f4": 27.53,
    "KL f8": 24.19,
    "KL f16": 24.08,
    "VQ f4": 27.43,
    "VQ f8": 23.07,
}  # PSNR, table 8
TABLE = re.compile(
    r"(<!-- made by scripts/first_stage_page.py -->\n).*?(<!-- until here -->)", re.S
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=128, help="pictures of either kind")
    options = parser.parse_args()
    photographs = Folder((PHOTOGRAPHS,), only={"split": "test"}, label="class_name").build()
    emoji = Folder(EMOJI, only={"split": "val_concept"}).build()
    models = {run: safelight.load(run / "model", precision="fp32") for run in options.runs}
    rows = [_row(run, model, photographs, emoji, options.count) for run, model in models.items()]
    text = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, TABLE.sub(lambda match: match[1] + _table(rows) + match[2], text))
    with writing(SHEET) as aside:
        _sheet(list(models.values()), photographs, emoji).save(aside, format="PNG")
    print(PAGE, SHEET)


def _row(
    run: Path, model: LatentDiffusion, photographs: Source, emoji: Source, count: int
) -> dict[str, str]:
    assert model.autoencoder is not None
    name = model.card.name.removesuffix(" small")
    row = {
        "": name,
        "latents of 128 px": "×".join(
            map(str, model.autoencoder.latent_shape((1, 3, SIZE, SIZE))[1:])
        ),
        "parameters": f"{sum(p.numel() for p in module(model.autoencoder).parameters()):,}",
        "updates": str(_last(run)),
    }
    for what, source in (("photographs", photographs), ("emoji", emoji)):
        with Bars(Console(stderr=True)) as bars:
            facts = report.reconstruction(model, source, SIZE, count, bars.report).facts
        for measure, value in facts["measured"].items():
            if not measure.startswith("codebook") or what == "photographs":
                row[f"{measure}, {what}"] = f"{value:.4g}"
    return row | {"PSNR in the paper": str(PAPER.get(name, "–"))}


def _table(rows: list[dict[str, str]]) -> str:
    """A column a model, a row a measure: there are fewer models than measures."""
    measures = list(dict.fromkeys(key for row in rows for key in row if key))
    lines = ["| | " + " | ".join(row[""] for row in rows) + " |", "| --- |" + " --- |" * len(rows)]
    lines += [
        f"| {measure} | " + " | ".join(row.get(measure, "–") for row in rows) + " |"
        for measure in measures
    ]
    return "\n" + "\n".join(lines) + "\n\n"


def _sheet(models: list[LatentDiffusion], photographs: Source, emoji: Source) -> Image.Image:
    """The sheet: originals in the first row, then a row for each model.

    The pictures are chosen by their content and not by the results.
    """
    first = {}
    for i in range(len(photographs)):
        first.setdefault((photographs[i].label or "").lower().replace(" ", "_"), i)
    chosen = [photographs[first[label]] for label in SHOWN if label in first] + [
        emoji[0],
        emoji[len(emoji) // 2],
    ]
    pictures = [read_picture(item.picture, item.name) for item in chosen]
    rows = [[_name("original"), *pictures]]
    for model in models:
        again = [report.reconstruct_picture(model, picture)[0] for picture in pictures]
        rows.append([_name(model.card.name.removesuffix(" small")), *again])
    return sheet(rows, gap=3)


def _name(text: str) -> Image.Image:
    cell = Image.new("RGB", (SIZE, SIZE), "white")
    ImageDraw.Draw(cell).text((8, SIZE // 2 - 10), text, fill="#222", font_size=20)
    return cell


def _last(run: Path) -> int:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["update"])


if __name__ == "__main__":
    main()
