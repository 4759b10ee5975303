"""Point the links of docs/*.md and README.md at the lines where things are defined now.

A link such as [`steps`](../src/safelight/pipeline.py#L44) names a function, class, method
(`Class.method`) or constant of that file; this finds its line. Names that a file no longer has are
listed. ``--check`` changes nothing and fails if a link is stale.
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
    lines: dict[str, int] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines[node.name] = node.lineno
        if isinstance(node, ast.ClassDef):
            methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
            lines |= {f"{node.name}.{method.name}": method.lineno for method in methods}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            lines |= {name.id: node.lineno for name in targets if isinstance(name, ast.Name)}
    return lines


def linked(page: Path) -> str:
    """The page's text with every link at its line.

    KeyError lists the names that are no longer there.
    """
    gone: list[str] = []

    def point(match: re.Match[str]) -> str:
        name, target = match[1], match[2]
        file = page.parent / target
        lines = definitions(file.read_text(encoding="utf-8")) if file.exists() else {}
        if name not in lines:
            gone.append(f"{name} in {target}")
        return f"[`{name}`]({target}#L{lines.get(name, 1)})"

    text = LINK.sub(point, page.read_text(encoding="utf-8"))
    if gone:
        raise KeyError(f"{page.name} links to what is no longer there: {', '.join(gone)}")
    return text


def pages() -> list[Path]:
    """The pages that hold such links."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    failed = False
    for page in pages():
        try:
            text = linked(page)
        except KeyError as error:
            print(error.args[0])
            failed = True
            continue
        if text != page.read_text(encoding="utf-8"):
            print(f"{page.relative_to(ROOT)}: links {'are stale' if check else 'moved'}")
            failed |= check
            if not check:
                page.write_text(text, encoding="utf-8")
    sys.exit(failed)


if __name__ == "__main__":
    main()
