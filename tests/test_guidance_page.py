"""The page of guidances matches the code, and its examples can be read."""

import importlib.util
import re
from pathlib import Path

from safelight.settings import GUIDANCE

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guidance.md").read_text("utf-8")


def script():
    spec = importlib.util.spec_from_file_location(
        "guidance_page", ROOT / "scripts" / "guidance_page.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_kinds():
    page = script()
    assert page.between(PAGE, "kinds", page.table()) == PAGE, (
        "python scripts/guidance_page.py --table-only"
    )
    assert all(f"| `{kind}` |" in PAGE for kind in GUIDANCE.kinds())
    assert page.between("<!-- a -->x<!-- /a -->", "a", "y") == "<!-- a -->\ny\n<!-- /a -->"


def test_the_table_counts_answers_and_tells_options():
    page = script()
    lines = {line.split("`")[1]: line for line in page.table().splitlines()[2:]}
    assert "| `scale=4.0` | 2 |" in lines["classifier-free"]
    assert "`of=classifier-free`, `blocks=[1]`" in lines["skip-layers"]
    assert "| 2 + 1 |" in lines["perturbed-attention"]
    assert "| 3 |" in lines["two-scale"]
    assert "`log_probability=(a function)`" in lines["classifier"]


def test_every_guidance_that_the_page_spells_is_one():
    spelled = re.findall(r"--guidance (\S+)", PAGE) + re.findall(
        r"^\| `([\w-]+:\S+)` \|", PAGE, re.M
    )
    assert len(spelled) > 10
    for text in spelled + script().ROWS:
        GUIDANCE.read(text)
