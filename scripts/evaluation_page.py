"""The measured part of docs/evaluation.md, from a report of ``safelight evaluate``.

python scripts/evaluation_page.py report.json

Tables go between the marks of the page; the report's sheets are copied beside it as JPEG, its
curves as they are.
"""

import argparse
import json
import re
from pathlib import Path

from PIL import Image

from safelight.evaluation.generation_report import page
from safelight.files import write_text, writing

PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"
SHEETS = ("samples", "nearest", "atoms", "seeds", "curves")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    options = parser.parse_args()
    facts = json.loads(options.report.read_text(encoding="utf-8"))
    files = {}
    for name in SHEETS:
        source = options.report.with_name(f"{options.report.stem}-{name}.png")
        if source.is_file():
            files[name] = f"evaluation-{name}{'.png' if name == 'curves' else '.jpg'}"
            copy_sheet(source, PAGE.with_name(files[name]))
    text = between(PAGE.read_text(encoding="utf-8"), results(page(facts, files)))
    write_text(PAGE, text)
    print(PAGE)


def results(report: str) -> str:
    """The report one level deeper, without its title."""
    lines = report.splitlines()[2:]
    return "\n".join(f"#{line}" if line.startswith("## ") else line for line in lines).strip()


def between(text: str, results: str) -> str:
    """``text`` with ``results`` between the page's marks."""
    begin, end = "<!-- results -->", "<!-- /results -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{results}\n{end}", text, flags=re.S)


def copy_sheet(source: Path, target: Path) -> None:
    """A picture in the format of the target's name, JPEG being a third as large as PNG."""
    with Image.open(source) as picture, writing(target) as aside:
        if target.suffix == ".png":
            picture.save(aside, format="PNG", optimize=True)
        else:
            picture.convert("RGB").save(aside, format="JPEG", quality=90, optimize=True)


if __name__ == "__main__":
    main()
