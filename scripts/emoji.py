"""Build the sticker set: captioned emoji in five drawing styles, from public sources.

Each style becomes one zip that follows the imagefolder convention: WebP pictures, a
`metadata.jsonl` that describes them, the licences and an ATTRIBUTION.md. Commits are pinned, zips
are deterministic: with the same librsvg and libwebp the pictures are the same to the byte. `--help`
says the rest.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from emoji_styles import EMOJIBASE, SHIPPED, STYLES, Source
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

HERE = Path(__file__).parent
SIZE = 128
LARGEST_MEMBER = 8 << 20  # bytes; the largest file that the sources really need is below 2 MiB
console = Console(stderr=True)

Json = dict[str, Any]


# The table: which concepts there are, what they are called, which are held out.


def concepts(data: Iterable[Json], groups: Json) -> list[Json]:
    """The entries of Emojibase in order, without components and single regional letters.

    Components are skin tones and hair.
    """
    return [
        {
            "name": entry["label"],
            "tags": entry.get("tags", []),
            "group": groups["groups"][str(entry["group"])],
            "subgroup": groups["subgroups"][str(entry["subgroup"])],
            "hexcode": entry["hexcode"],
            "emoji": entry["emoji"],
        }
        for entry in data
        if "group" in entry and groups["groups"][str(entry["group"])] != "component"
    ]


def caption(name: str, words: str) -> str:
    """ "flag: Wales" and "flat emoji" make "flag of Wales, flat emoji"."""
    return f"{re.sub('^flag: ', 'flag of ', name)}, {words}"


def split(style: str, hexcode: str, held_out: Json) -> str:
    """The split of a picture: val_concept, val_pair or train.

    A concept may be held out in every style (val_concept) or in this one only (val_pair).
    """
    if hexcode in held_out["val_concept"]:
        return "val_concept"
    return "val_pair" if hexcode in held_out["val_pair"][style] else "train"


def record(concept: Json, style: str, held_out: Json) -> Json:
    """The line of ``metadata.jsonl`` for one picture."""
    hexcode = concept["hexcode"]
    return {
        "file_name": f"images/{style}/{hexcode}.webp",
        "text": caption(concept["name"], STYLES[style].words),
        **{key: concept[key] for key in ("name", "tags")},
        "style": style,
        **{key: concept[key] for key in ("group", "subgroup", "hexcode", "emoji")},
        "split": split(style, hexcode, held_out),
    }


def spellings(style: str, hexcode: str) -> list[str]:
    """How the style's source may write a code point sequence, the likeliest first.

    Sources disagree about the variation selector FE0F and about leading zeros.
    """
    points = hexcode.split("-")
    bare = [point for point in points if point != "FE0F"]
    if style == "noto":
        return ["_".join(bare).lower()]
    if style == "fluent":
        return ["-".join(written).lower() for written in (points, bare, [*points, "FE0F"])]
    return [hexcode, "-".join(point.lstrip("0") for point in bare)]


def find(checkout: Path, style: str, hexcode: str) -> Path | None:
    """The picture of a concept in a checkout of the style's source, if it has one."""
    paths = [
        checkout / STYLES[style].path.format(spelling) for spelling in spellings(style, hexcode)
    ]
    return next((path for path in paths if path.is_file()), None)


# The pictures.


def rasteriser() -> tuple[str, Callable[[Path], bytes]]:
    """The program that turns an SVG into a PNG of twice ``SIZE``, and its name and version."""
    size = str(2 * SIZE)
    if command := shutil.which("rsvg-convert"):
        version = subprocess.run(
            [command, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
        line = [command, "--keep-aspect-ratio", "--width", size, "--height", size]
        return (
            version,
            lambda path: subprocess.run([*line, str(path)], capture_output=True, check=True).stdout,
        )
    try:
        import cairosvg  # type: ignore[import-not-found]
    except ImportError:
        sys.exit(
            "SVGs need rsvg-convert on PATH (package librsvg2-bin or librsvg), or else: pip "
            "install cairosvg"
        )
    convert = cairosvg.svg2png
    return f"cairosvg {cairosvg.__version__}", lambda path: convert(
        url=str(path), output_width=2 * SIZE, output_height=2 * SIZE
    )


def squared(picture: Image.Image) -> Image.Image:
    """The picture centred in a transparent square as wide as its longer side."""
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def webp(path: Path, rasterise: Callable[[Path], bytes]) -> bytes:
    """A finished picture: lossless if it was not resampled, else quality 90 with exact alpha."""
    source = Image.open(io.BytesIO(rasterise(path)) if path.suffix == ".svg" else path)
    picture = squared(source.convert("RGBA"))
    out = io.BytesIO()
    if picture.size == (SIZE, SIZE):
        picture.save(out, "WEBP", lossless=True, quality=100, method=6)
    else:
        picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(
            out, "WEBP", quality=90, method=6
        )
    return out.getvalue()


# The sources.


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A place to write what becomes ``path`` once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    yield part
    os.replace(part, path)


def fetch(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks of ``url``; begin again where the server cannot continue."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        with open(part, "ab" if answer.status == HTTPStatus.PARTIAL_CONTENT else "wb") as out:
            shutil.copyfileobj(answer, out)
        if answer.length:
            raise ConnectionError(f"{answer.length} bytes are missing")


def download(url: str, path: Path, tries: int = 5) -> None:
    """Download ``url`` to ``path``, with retries that continue an interrupted download."""
    with aside(path) as part:
        for attempt in range(tries):
            try:
                fetch(url, part)
                break
            except (OSError, HTTPException) as error:
                if (
                    isinstance(error, HTTPError)
                    and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                ):
                    part.unlink()  # longer than the archive is now
                if attempt == tries - 1:
                    sys.exit(
                        f"could not fetch {url}: {error}; run again to continue, or use --from"
                    )
                time.sleep(2**attempt)


def extract(archive: Path, folder: Path, wanted: str) -> None:
    """Unpack the files whose paths match a pattern; only ordinary and small files."""
    with tarfile.open(archive, "r|gz") as members:
        for member in members:
            _, _, inside = member.name.partition("/")
            data = (
                members.extractfile(member)
                if member.isreg() and re.fullmatch(wanted, inside)
                else None
            )
            if data is None or member.size > LARGEST_MEMBER:
                continue
            with aside(folder / inside) as part:
                part.write_bytes(data.read())


def checkout(source: Source, cache: Path, given: Path | None) -> tuple[Path, Json]:
    """A folder with the source's files, and what the manifest says of where they came from."""
    origin: Json = {
        "repository": source.repository,
        "commit": source.commit,
        "archive_sha256": None,
    }
    if given is not None:
        folder = given / source.name
        if not folder.is_dir():
            sys.exit(
                f"--from {given}: wanted a checkout of {source.repository} at {source.commit} in "
                f"{folder}"
            )
        return folder, origin
    archive = cache / f"{source.name}-{source.commit}.tar.gz"
    folder = cache / f"{source.name}-{source.commit}"
    if not archive.exists():
        with console.status(f"fetching {source.repository}"):
            download(source.archive, archive)
    if not folder.exists():
        with console.status(f"unpacking {source.repository}"), aside(folder) as part:
            shutil.rmtree(part, ignore_errors=True)
            extract(archive, part, source.wanted)
    with open(archive, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return folder, origin | {"archive_sha256": digest}


# The zips.


def attribution(name: str) -> str:
    style = STYLES[name]
    made = (
        "as published (128 px, stored as lossless WebP)"
        if name == "noto"
        else (
            "scaled to 128 px (SVGs rasterised at 256 px, Lanczos) and stored as WebP, quality 90 "
            "with exact alpha"
        )
    )
    return (
        f"# {name}: {style.pictures} pictures, {style.licence}\n\n{style.credit}.\n\n"
        f"Pictures: https://github.com/{style.source.repository} at {style.source.commit}, "
        f"{made}.\n"
        f"Names, tags and groups: https://github.com/{EMOJIBASE.repository} at "
        f"{EMOJIBASE.commit}, MIT, "
        "copyright Miles Johnson.\n\nThe licence texts are in `LICENSES/`.\n"
    )


def licences(name: str, folder: Path, emojibase: Path) -> dict[str, bytes]:
    files = {"LICENSES/emojibase-MIT.txt": emojibase / "LICENSE"}
    for title, place in STYLES[name].texts.items():
        own = place.removeprefix("own:")
        files[f"LICENSES/{title}"] = folder / place if own == place else HERE.parent / own
    return {title: path.read_bytes() for title, path in files.items()}


def pictures(
    name: str, table: Iterable[Json], folder: Path, rasterise: Callable[[Path], bytes]
) -> tuple[dict[str, bytes], list[str]]:
    """The finished pictures by code point, and the code points whose picture cannot be read."""
    found = {c["hexcode"]: path for c in table if (path := find(folder, name, c["hexcode"]))}

    def draw(path: Path) -> bytes | None:
        try:
            return webp(path, rasterise)
        except (
            subprocess.CalledProcessError,
            UnidentifiedImageError,
            SyntaxError,
        ):  # the last: broken XML, to cairosvg
            return None

    with ThreadPoolExecutor() as pool:
        drawn = list(track(pool.map(draw, found.values()), name, total=len(found), console=console))
    made = dict(zip(found, drawn, strict=True))
    return {h: data for h, data in made.items() if data}, [
        h for h, data in made.items() if data is None
    ]


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """A zip that depends on nothing but its members: stored, in the order given, without dates."""
    with aside(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest(rows: Iterable[Json], path: Path) -> None:
    """Manifest lines of file, sha256, style and split, gzipped to the same bytes every time."""
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    with aside(path) as part:
        part.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def compare(rows: list[Json], reference: Path) -> None:
    """Print how many pictures equal those of the published manifest.

    Another version of libwebp may give other bytes for the same picture.
    """
    known = {
        row["file"]: row
        for row in map(json.loads, gzip.decompress(reference.read_bytes()).splitlines())
    }
    for style in dict.fromkeys(row["style"] for row in rows):
        mine = [row for row in rows if row["style"] == style]
        same = sum(known.get(row["file"]) == row for row in mine)
        console.print(
            f"{style}: {same} of {len(mine)} pictures are those of {reference.name}, to the byte"
        )


def build(
    name: str, table: list[Json], folder: Path, emojibase: Path, out: Path
) -> tuple[list[Json], Json]:
    """Write the zip of a style; returns its lines of the manifest and remarks about the zip."""
    style = STYLES[name]
    tool, rasterise = rasteriser() if style.path.endswith(".svg") else ("none", Path.read_bytes)
    drawn, refused = pictures(name, table, folder, rasterise)
    if len(drawn) != style.pictures:
        unread = f", unreadable {', '.join(refused)}" if refused else ""
        sys.exit(
            f"{name}: wanted {style.pictures} pictures, got {len(drawn)}{unread}; is {folder} "
            "whole?"
        )
    held_out = json.loads((HERE / "emoji_held_out.json").read_text("utf-8"))
    records = [record(concept, name, held_out) for concept in table if concept["hexcode"] in drawn]
    images = {line["file_name"]: drawn[line["hexcode"]] for line in records}
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records)
    members = {"metadata.jsonl": lines.encode(), "ATTRIBUTION.md": attribution(name).encode()}
    path = out / f"emoji-{name}-{SIZE}.zip"
    write_zip(path, members | licences(name, folder, emojibase) | images)
    rows = [
        {"file": file, "sha256": sha256(images[file]), "style": name, "split": line["split"]}
        for line in records
        if (file := line["file_name"])
    ]
    facts = {"zip": path.name, "sha256": sha256(path.read_bytes()), "pictures": len(rows)}
    return rows, facts | {"unreadable": refused, "rasteriser": tool}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="""examples:
  python scripts/emoji.py                     download (hundreds of MB) and build four styles
  python scripts/emoji.py --styles openmoji   one style; OpenMoji is CC BY-SA, as your set then is
  python scripts/emoji.py --from ~/checkouts  use ~/checkouts/{emojibase,noto-emoji,...}

The SVGs (twemoji, blob, openmoji) are drawn by rsvg-convert of librsvg if it is on PATH, else by
the Python package cairosvg, whose edges and gradients differ a little. sources.json in OUT says
which one it was, with all commits and hashes; data.jsonl.gz has the hash of every picture.
Compressing takes about a quarter of a second of one core for each picture.""",
    )
    parser.add_argument(
        "--styles",
        nargs="+",
        choices=STYLES,
        default=SHIPPED,
        metavar="STYLE",
        help=f"which of {', '.join(STYLES)}; default: {' '.join(SHIPPED)}",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("data/emoji"),
        help="folder of the zips; default: data/emoji",
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="given",
        metavar="DIR",
        help="folder of unpacked checkouts, named like their repositories; nothing is fetched",
    )
    return parser.parse_args()


def main() -> None:
    choice = options()
    cache = choice.out / "sources"
    emojibase, origin = checkout(EMOJIBASE, cache, choice.given)
    data, groups = (
        emojibase / "packages/data" / path for path in ("en/data.raw.json", "meta/groups.json")
    )
    table = concepts(json.loads(data.read_text("utf-8")), json.loads(groups.read_text("utf-8")))
    origins, rows, zips = [origin], [], []
    for name in choice.styles:
        folder, origin = checkout(STYLES[name].source, cache, choice.given)
        origins += [origin] if origin not in origins else []
        lines, facts = build(name, table, folder, emojibase, choice.out)
        rows += lines
        zips.append(facts)
    manifest(rows, choice.out / "data.jsonl.gz")
    with aside(choice.out / "sources.json") as part:
        part.write_text(json.dumps({"sources": origins, "zips": zips}, indent=2) + "\n", "utf-8")
    reference = HERE.parent / "src/safelight/models/stickers/data.jsonl.gz"
    if reference.exists():
        compare(rows, reference)


if __name__ == "__main__":
    main()
