"""Point the links of docs/*.md and README.md at the lines where things are defined now.

A link such as [`steps`](../src/safelight/generate.py#L44) names a function, class or method (`Class.method`) of that
file; this finds its line. ``--check`` changes nothing and fails if a link is stale.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[`([\w.]+)`\]\(([\w./-]+\.py)#L\d+\)")


def definitions(text: str) -> dict[str, int]:
    """The line of each function, class, method and constant of a Python file, by name."""
    found: dict[str, int] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{one.name}": one.lineno
                for one in node.body
                if isinstance(one, ast.FunctionDef)
            }
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id: node.lineno for one in targets if isinstance(one, ast.Name)}
    return found


def linked(page: Path) -> str:
    """The page's text with every link at its line; KeyError if a name is no longer there."""

    def point(match: re.Match[str]) -> str:
        name, target = match[1], match[2]
        line = definitions((page.parent / target).read_text(encoding="utf-8"))[name]
        return f"[`{name}`]({target}#L{line})"

    return LINK.sub(point, page.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    """The pages that hold such links."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [page for page in pages() if linked(page) != page.read_text(encoding="utf-8")]
    for page in stale:
        if not check:
            page.write_text(linked(page), encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: links {'are stale' if check else 'moved'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
