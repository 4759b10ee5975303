"""Sheets of pictures with words below them, for looking at what figures cannot say."""

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from safelight.evaluation.atoms import Atom
from safelight.evaluation.memorisation import Nearest
from safelight.evaluation.reference import Reference
from safelight.media.pictures import sheet, to_pictures
from safelight.types.tensors import Images

ACROSS = 6
LINE = 13  # pixels of a line of words
RED, GREEN, GREY = "#c62828", "#2e7d32", "#444444"


def labelled(
    picture: Image.Image, text: str, lines: int = 2, colour: str = GREY, frame: str = ""
) -> Image.Image:
    """A picture with words below it and, if named, a frame of a colour around it."""
    cell = Image.new("RGB", (picture.width, picture.height + LINE * lines + 6), "white")
    cell.paste(picture, (0, 0))
    draw = ImageDraw.Draw(cell)
    if frame:
        draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=frame, width=3)
    width = max(8, picture.width // 6)
    lines_shown = "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
    draw.multiline_text((2, picture.height + 3), lines_shown, fill=colour, font_size=10, spacing=2)
    return cell


def columns_sheet(rows: Sequence[tuple[str, Images]], captions: Sequence[str]) -> Image.Image:
    """Sets of pictures, row below row under the captions that they share: real above sample above
    what else was found. The first column names the rows."""
    pictures = [(name, to_pictures(images)) for name, images in rows]
    blocks = []
    for start in range(0, len(captions), ACROSS):
        for number, (name, row) in enumerate(pictures):
            last = number == len(pictures) - 1
            cells = [_title(name, row[0].size)]
            for picture, caption in zip(
                row[start : start + ACROSS], captions[start : start + ACROSS], strict=True
            ):
                cells.append(labelled(picture, caption) if last else picture)
            blocks.append(sheet([cells], gap=4))
    return _stacked(blocks)


def seed_sheet(images: Images, prompts: Sequence[str], seeds: int) -> Image.Image:
    """A row for each prompt, a column for each seed."""
    pictures = to_pictures(images)
    rows = []
    for number, prompt in enumerate(prompts):
        row = pictures[number * seeds : (number + 1) * seeds]
        rows.append([_title(prompt, row[0].size), *row])
    return sheet(rows, gap=4)


def rows_sheet(
    columns: Sequence[tuple[str, Sequence[Image.Image]]], titles: Sequence[str]
) -> Image.Image:
    """Columns of pictures under their names; each row has a title at its left."""
    size = columns[0][1][0].size
    head = [Image.new("RGB", (size[0], 2 * LINE), "white")]
    head += [_title(name, (size[0], 2 * LINE)) for name, _ in columns]
    rows = [
        sheet([[_title(title, size), *(pictures[row] for _, pictures in columns)]], gap=4)
        for row, title in enumerate(titles)
    ]
    return _stacked([sheet([head], gap=4), *rows])


def nearest_sheet(
    samples: Images, training: Reference, closest: Nearest, limit: float, count: int = 12
) -> Image.Image:
    """The samples that are nearest to training pictures, each beside that picture; near-copies
    framed."""
    order = closest.distances.argsort()[:count].tolist()
    cells = []
    for place in order:
        distance = float(closest.distances[place])
        original = int(closest.places[place])
        mine, theirs = (
            to_pictures(images)[0]
            for images in (samples[place : place + 1], training.images([original]))
        )
        frame = RED if distance <= limit else ""
        colour = RED if frame else GREY
        cells.append(labelled(mine, f"sample, {distance:.3g} from", colour=colour, frame=frame))
        cells.append(labelled(theirs, f"training: {training.captions[original]}"))
    return sheet([cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)], gap=4)


def atom_sheet(
    images: Images, atoms: Sequence[Atom], verdicts: Sequence[Mapping[str, bool]], count: int = 60
) -> Image.Image:
    """Some atoms of each kind, spread evenly: green where all that was asked for was found, else
    red with what was not."""
    places = [number * len(atoms) // count for number in range(min(count, len(atoms)))]
    places = places if len(atoms) > count else list(range(len(atoms)))
    cells = []
    for place, picture in zip(places, to_pictures(images[places]), strict=True):
        missed = [kind for kind, right in verdicts[place].items() if not right]
        text = atoms[place].prompt + (f" (no {', '.join(missed)})" if missed else "")
        cells.append(labelled(picture, text, lines=3, colour=RED if missed else GREEN))
    return sheet([cells[i : i + 2 * ACROSS] for i in range(0, len(cells), 2 * ACROSS)], gap=4)


def _title(text: str, size: tuple[int, int]) -> Image.Image:
    cell = Image.new("RGB", size, "white")
    lines = "\n".join(textwrap.wrap(text, max(8, size[0] // 6)))
    ImageDraw.Draw(cell).multiline_text((2, 4), lines, fill=GREY, font_size=11, spacing=2)
    return cell


def _stacked(blocks: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Blocks below each other, each as high as it is."""
    height = sum(block.height + gap for block in blocks) - gap
    page = Image.new("RGB", (max(block.width for block in blocks), height), "white")
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height + gap
    return page
