"""The table of the public families says what was measured, of every family there is."""

import importlib.util
import json
from pathlib import Path

from safelight.layouts.families import families

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location(
    "families_page", ROOT / "scripts" / "families_page.py"
)
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)
MEASURED = json.loads(page.MEASURED.read_text(encoding="utf-8"))


def test_the_table_is_made_of_the_measurements():
    found = page.TABLE.search(page.PAGE.read_text(encoding="utf-8"))
    assert found.group(0) == found[1] + page.table(MEASURED) + found[2], (
        "run scripts/families_page.py --draw"
    )


def test_every_family_stands_in_it_and_every_recording_is_near():
    table = page.table(MEASURED)
    assert all(f"(`{name}`)" in table for name in families())
    assert {
        "sd1",
        "sd2",
        "sdxl",
        "sd3",
        "sd35-medium",
        "sd35-large",
        "flux-dev",
        "flux2-dev",
        "dit",
    } <= set(MEASURED)
    assert all(one["largest"] < 1e-3 and one["comparisons"] > 0 for one in MEASURED.values())


def test_a_comparison_belongs_to_the_family_that_its_test_names():
    assert page.family_of("sd2-v", "any") == "sd2"
    folder = "tests/checkpoints/test_folders.py::test_the_steps_equal_the_recorded_ones"
    assert page.family_of("diffusers-folders", f"{folder}[sd-inpaint]") == "sd1-inpaint"
    assert page.family_of("diffusers-folders", f"{folder}[sd-7.5]") == "sd1"
    assert page.family_of("diffusers-folders", "tests/test_x.py::test_y") == "folders"
