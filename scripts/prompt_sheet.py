"""Draw a sheet of pictures, each with its prompt below it and the first seed.

python scripts/prompt_sheet.py [--model stickers] [--out docs/stickers.png] [PROMPT …]
"""

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

import safelight
from safelight.files import writing
from safelight.media.pictures import sheet

PROMPTS = [
    "red apple, glossy 3d emoji",
    "fox, flat emoji",
    "grinning face, flat emoji",
    "red heart, glossy 3d emoji",
    "evergreen tree, cartoon emoji with soft shading",
    "cat face, soft cartoon blob emoji",
    "rainbow, flat emoji",
    "pizza, glossy 3d emoji",
    "rocket, flat emoji",
    "sunflower, cartoon emoji with soft shading",
    "dog face, glossy 3d emoji",
    "crying face, soft cartoon blob emoji",
    "birthday cake, glossy 3d emoji",
    "green apple, flat emoji",
    "full moon, cartoon emoji with soft shading",
    "blue book, flat emoji",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", default=PROMPTS)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--out", type=Path, default=Path("docs/stickers.png"))
    options = parser.parse_args()
    model = safelight.load(options.model)
    cells = [
        _labelled(safelight.generate(model, safelight.TextToImage(p))[0], p)
        for p in options.prompts
    ]
    page = sheet([cells[i : i + 8] for i in range(0, len(cells), 8)], gap=8)
    with writing(options.out) as aside:
        page.save(aside, format="PNG")
    print(options.out)


def _labelled(picture: Image.Image, prompt: str) -> Image.Image:
    cell = Image.new("RGB", (picture.width, picture.height + 54), "white")
    cell.paste(picture, (0, 0))
    text = "\n".join(textwrap.wrap(prompt, 22))
    ImageDraw.Draw(cell).multiline_text(
        (2, picture.height + 4), text, fill="#444", font_size=11, spacing=2
    )
    return cell


if __name__ == "__main__":
    main()
