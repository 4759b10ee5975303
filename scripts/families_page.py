"""Measure every recording of the public model families.

Writes docs/families.json and the table of docs/families.md.

python scripts/families_page.py            runs the tests that compare with recordings, some minutes
python scripts/families_page.py --draw     writes the table again from docs/families.json
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safelight.files import write_text
from safelight.layouts.families import Family, families

ROOT = Path(__file__).parent.parent
PAGE, MEASURED = ROOT / "docs" / "families.md", ROOT / "docs" / "families.json"
TESTS = ("tests/checkpoints", "tests/conditioners", "tests/autoencoders")
TABLE = re.compile(r"(<!-- made by scripts/families_page.py -->\n).*?(<!-- until here -->)", re.S)
RECORDED = {"sd2-v": "sd2", "flux2": "flux2-dev"}  # recordings by other names than the family's
FOLDERS = {
    "sd": "sd1",
    "sd-inpaint": "sd1-inpaint",
    "controlnet": "sd1",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux-dev",
    "dit": "dit",
    "ldm-uncond": "ldm",
}
CONTROL = {
    "unet": "ControlNet, T2I-adapter",
    "mmdit": "ControlNet",
    "flux": "ControlNet",
}  # by the denoiser's kind
SHOWN = {
    "flux-dev": ", control LoRA",
    "flux-schnell": ", control LoRA",
    "flux-control": ", by itself",
}
BY = {  # what a prompt is, where it is no text alone
    "ldm-class": "a class",
    "ldm-class-f8": "a class",
    "ldm-text": "a prompt, with `vocab.txt` beside the file",
    "ldm-text-f4": "a prompt, with `vocab.txt` beside the file",
    "ldm-layout": "numbers of pieces",
    "ldm-segments": "its network, in Python, and a map of classes",
}
MERGED = {"sd1", "sdxl", "flux-dev"}  # families whose recordings hold adapters


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", action="store_true", help="only write the table again")
    if not parser.parse_args().draw:
        write_text(MEASURED, json.dumps(measured(), indent=1, sort_keys=True) + "\n")
    page = PAGE.read_text(encoding="utf-8")
    write_text(
        PAGE,
        TABLE.sub(
            lambda found: found[1] + table(json.loads(MEASURED.read_text())) + found[2], page
        ),
    )
    print(PAGE)


def measured() -> dict[str, dict[str, float]]:
    """For each family the largest error of its comparisons, and how many there were."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "errors.jsonl"
        environment = {**os.environ, "SAFELIGHT_MEASURED": str(path)}
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *TESTS], cwd=ROOT, env=environment, check=True
        )
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    errors: dict[str, list[float]] = {}
    for line in lines:
        errors.setdefault(family_of(line["recording"], line["test"]), []).append(line["error"])
    return {
        name: {"largest": max(found), "comparisons": len(found)} for name, found in errors.items()
    }


def family_of(recording: str, test: str) -> str:
    """The recording that a test compares with, or the folder in the test's name."""
    if recording != "diffusers-folders":
        return RECORDED.get(recording, recording)
    words = re.split(r"[\[\]\-_.:/]+(?!inpaint|uncond)", test)
    return next(
        (FOLDERS[word] for word in sorted(FOLDERS, key=len, reverse=True) if word in words),
        "folders",
    )


def table(errors: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of all families, as Markdown."""
    head = (
        "| family | network | one file | folder | runs on | LoRA | control | largest error | "
        "comparisons |"
    )
    return "\n".join(
        [
            "",
            head,
            "|" + " --- |" * 9,
            *(row(value, errors) for value in families().values()),
            "",
            "",
        ]
    )


def row(family: Family, errors: Mapping[str, Mapping[str, Any]]) -> str:
    """One family: what can be done with it, and how near its recordings come."""
    found = errors.get(family.name)
    told = f"{found['largest']:.0e} | {found['comparisons']}" if found else "none recorded | –"
    denoiser = str(family.fits["kind"])
    second = family.fits.get("generation") == 2  # of FLUX, which no branch of control is for
    lora = "merged, recorded" if family.name in MERGED else "merged" if family.text else "–"
    cells = (
        f"{family.title} (`{family.name}`)",
        f"`{denoiser}`",
        "read, write" if family.single else "–",
        "read, write" if family.folder else "–",
        runs_on(family),
        lora,
        CONTROL.get(denoiser, "–") + SHOWN.get(family.name, "")
        if family.text and not second
        else "–",
        told,
    )
    return f"| {' | '.join(cells)} |"


def runs_on(family: Family) -> str:
    """What its pictures are asked for with, from the command line."""
    if family.name == "flux-control":
        return "a prompt, and a picture as `--control =PICTURE`"
    if family.name in BY:
        return BY[family.name]
    if family.fits.get("extra_channels", 0) not in (0, False):
        return "its network, in Python: no task gives it its channels yet"
    if family.conditioner:
        return "a class" if family.conditioner["kind"] == "label" else "nothing"
    return "a prompt" if family.text else "its network, in Python: its text tower is not built"


if __name__ == "__main__":
    main()
