"""What the README tells people to run is what the project itself runs."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = 'python -m pip install -e ".[test]" && python -m pytest -n auto --dist worksteal'


def commands(text: str) -> list[str]:
    return [
        line.strip()
        for line in text.splitlines()
        if re.match(r"\s*python -m pip install -e .*pytest", line)
    ]


def test_the_readme_and_ci_run_the_same_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert commands(script.read_text("utf-8")) == [COMMAND]
    told = commands((ROOT / "README.md").read_text("utf-8"))
    if not told:
        pytest.skip("the README does not tell yet how to run the tests")
    assert set(told) == {COMMAND}


def test_the_makefile_has_the_targets_that_contributors_are_told_of():
    told = re.findall(r"^\| `make (\w+)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M)
    assert told
    assert told == re.findall(r"^(\w+):  ##", (ROOT / "Makefile").read_text("utf-8"), re.M)
