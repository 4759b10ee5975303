"""Write the table of guidances in docs/guidance.md, and a grid of pictures.

Rows are guidances, columns are prompts; all have one seed.

python scripts/guidance_page.py [--model stickers] [--steps 20] [--table-only]

The table is made of the kinds themselves: their options with what holds by default, how many
answers they ask for at a noise level, and the first sentence that they say of themselves.
``--weak`` adds a row of autoguidance by that model.
"""

import argparse
import re
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageStat

import safelight
from safelight.config import kind_of
from safelight.diffusion.schedule import Linear
from safelight.files import writing
from safelight.media.pictures import sheet
from safelight.settings import GUIDANCE
from safelight.types.networks import Condition

PAGE = Path(__file__).parent.parent / "docs" / "guidance.md"
PROMPTS = [
    "red heart, glossy 3d emoji",
    "grinning face, flat emoji",
    "blue book, flat emoji",
    "fox, flat emoji",
]
CELL, HEAD = 96, 58  # the side of a picture; where the names of the columns begin in the first row
ROWS = [
    "none",
    "classifier-free:scale=3",
    "classifier-free:scale=8",
    "interval:scale=8,low=0.1,high=0.7",
    "rescale:scale=8,phi=0.7",
    "threshold:scale=8",
    "apg:scale=8,threshold=5",
    "cfg-zero:scale=3",
    "cfg-plus-plus:scale=0.6",
    "channels:scale=8,first=3",
    "skip-layers:scale=3,blocks=[1]",
    "perturbed-attention:scale=3,blocks=[1]",
    "perturbed-attention:of=none,blocks=[1]",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--weak", help="a weaker model, for a row of autoguidance")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    page = between(PAGE.read_text(encoding="utf-8"), "kinds", table())
    if not options.table_only:
        rows = [*ROWS, *(["autoguidance:scale=2"] if options.weak else [])]
        model = safelight.load(options.model, precision="fp32")
        if options.weak:
            model = replace(
                model, companions={"weak": safelight.load(options.weak, precision="fp32")}
            )
        made = [_row(model, row, options.steps) for row in rows]
        with writing(PAGE.with_suffix(".png")) as aside:
            head = [_label(text, below=HEAD) for text in ["", *PROMPTS]]
            drawn = sheet([head, *(cells for cells, _ in made)], gap=6)
            drawn.crop((0, HEAD, *drawn.size)).save(aside, format="PNG", optimize=True)
        page = between(page, "grid", "\n".join([*_GRID_HEAD, *(line for _, line in made)]))
    with writing(PAGE) as aside:
        aside.write_text(page, encoding="utf-8")
    print(PAGE)


def between(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between its two marks of that name."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    return re.sub(f"{begin}.*?{end}", lambda match: f"{begin}\n{text}\n{end}", page, flags=re.S)


def table() -> str:
    """One row a kind of guidance."""
    rows = ["| kind | options | answers | |", "| --- | --- | --- | --- |"]
    for cls in GUIDANCE.all():
        said = " ".join((cls.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
        rows.append(f"| `{kind_of(cls)}` | {_options(cls)} | {_answers(cls)} | {said} |")
    return "\n".join(rows)


def _options(cls: type[Any]) -> str:
    return ", ".join(f"`{item.name}={_default(item)}`" for item in fields(cls))


def _default(one: Field[Any]) -> str:
    if isinstance(one.default_factory, type):
        return kind_of(one.default_factory)
    if one.default is MISSING:
        return "(a function)"
    return str(list(one.default) if isinstance(one.default, tuple) else one.default)


def _answers(cls: type[Any]) -> str:
    """How many network calls a step needs in the middle of a run, by network: 2, or 2 + 1."""
    options = {
        item.name: len
        for item in fields(cls)
        if item.default is MISSING and item.default_factory is MISSING
    }
    level = Linear()(torch.tensor(0.5, dtype=torch.float64))
    calls = cls(**options).calls(Condition(), lambda only: Condition(), level)
    networks = [call.network for call in calls]
    return " + ".join(str(networks.count(network)) for network in dict.fromkeys(networks))


_GRID_HEAD = ["| guidance | saturation |", "| --- | --- |"]


def _row(
    model: safelight.LatentDiffusion, guidance: str, steps: int
) -> tuple[Sequence[Image.Image], str]:
    """The pictures of a row behind its name, and its line in the table: their mean saturation."""
    settings = safelight.Settings(steps=steps, sampler="euler", guidance=guidance, seed=0)
    pictures = [
        safelight.generate(model, safelight.TextToImage(prompt), settings)[0] for prompt in PROMPTS
    ]
    saturation = sum(
        ImageStat.Stat(p.convert("HSV").getchannel("S")).mean[0] / 255 for p in pictures
    ) / len(pictures)
    cells = [picture.resize((CELL, CELL), Image.Resampling.LANCZOS) for picture in pictures]
    return [
        _label(re.sub("([:,])", r"\1 ", guidance)),
        *cells,
    ], f"| `{guidance}` | {saturation:.3f} |"


def _label(text: str, below: int = 4) -> Image.Image:
    cell = Image.new("RGB", (CELL, CELL), "white")
    lines = "\n".join(textwrap.wrap(text, 16))
    ImageDraw.Draw(cell).multiline_text((2, below), lines, fill="#222", font_size=11, spacing=2)
    return cell


if __name__ == "__main__":
    main()
