"""The source keeps the rules of docs/architecture.md; each rule reports what breaks it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import house_rules as rules

ROOT = Path(__file__).parents[1]

COPIED = "\n".join(f"first{n} = {n}  # comment {{}}\n\n" for n in range(6))
VIOLATIONS = [
    (rules.rooms_without_a_floor, {"safelight.cellar": ""}),
    (rules.upward_imports, {"safelight.nn.x": "from safelight.training import loop"}),
    (rules.upward_imports, {"safelight.nn.x": "def f():\n    from ..model import LatentDiffusion"}),
    (rules.upward_imports, {"safelight.data.x": "import safelight.features.x"}),
    (rules.upward_imports, {"safelight.model": "from safelight import runtime"}),
    (rules.upward_imports, {"safelight.pipeline": "import safelight"}),
    (rules.upward_imports, {"safelight.pipeline": "from safelight import Settings"}),
    (rules.foreign_imports_on_the_ground_floor, {"safelight.types": "import numpy"}),
    (
        rules.foreign_imports_on_the_ground_floor,
        {"safelight.diffusion.x": "from ..config import read"},
    ),
    (
        rules.foreign_imports_on_the_ground_floor,
        {"safelight.diffusion.x": "from safelight import types_of"},
    ),
    (rules.torch_imports, {"safelight.governance.policy": "def f():\n    import torch"}),
    (
        rules.torch_imports,
        {
            "safelight.config": "def f():\n    from safelight.types import Images",
            "safelight.types": "import torch",
        },
    ),
    (rules.torch_imports, {"safelight.tasks.x": "from torch import nn"}),
    (
        rules.torch_imports,
        {"safelight.cli": "try:\n    import torch.nn\nexcept ImportError:\n    pass"},
    ),
    (
        rules.torch_imports,
        {
            "safelight.__init__": "from .model import M",
            "safelight.model": "import safelight.nn.x",
            "safelight.nn.x": "",
            "safelight.nn.__init__": "import torch",
        },
    ),
    (rules.long_files, {"safelight.x": "\n" * 601}),
    (
        rules.long_functions,
        {"safelight.x": "def f():\n" + "    a = 1\n" * 80 + "def g(): ...\n" * 9},
    ),
    (rules.long_functions, {"safelight.x": "def f():\n" + "    a = 1\n" * 39}),
    (rules.many_parameters, {"safelight.types": "def f(a, b, c, d, /, e, f, g, *, h, i): ..."}),
    (rules.many_parameters, {"safelight.nn.x": "def f(a, b, c, d, e, f, g, h, i, j, *k): ..."}),
    (
        rules.configs_with_many_fields,
        {"safelight.x": "class Config:\n" + "".join(f"    a{n}: int = 1\n" for n in range(13))},
    ),
    *[
        (rules.private_words, {"safelight.x": text})
        for text in ("told = 1", "def f(hears): ...", "class Tower: ...", "a.stands_on = b")
    ],
    (
        rules.missing_annotations,
        {"safelight.x": "class A:\n    def f(self, a: int, *, b) -> None: ..."},
    ),
    (rules.missing_annotations, {"safelight.x": "async def f(a: int): ..."}),
    (rules.keyword_dictionaries, {"safelight.x": "def f(**options: int) -> None: ..."}),
    (rules.forbidden_calls, {"safelight.x": "hasattr(a, 'b')"}),
    (rules.forbidden_calls, {"safelight.x": "a.load_state_dict(b, strict=False)"}),
    (rules.forbidden_calls, {"safelight.x": "a.load_state_dict(b, False)"}),
    (
        rules.repeated_passages,
        {
            "safelight.x": COPIED.format(*"abcdef"),
            "safelight.y": "import torch\n" + COPIED.format(*"ghijkl"),
        },
    ),
]
ALLOWED = {
    "safelight.__init__": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import safelight.model
""",
    "safelight.types": """
from __future__ import annotations
import math, torch
from jaxtyping import Float
""",
    "safelight.diffusion.samplers": """
from ..types import Step
from safelight.errors import BadInput
""",
    "safelight.checkpoints.native": """
from safelight import __version__
from safelight.model import LatentDiffusion
""",
    "safelight.model": "import torch\nfrom safelight.nn import attention",
    "safelight.tasks.inpaint": """
def start() -> None:
    import torch
    from safelight.model import M
""",
    "safelight.cli": "import safelight",
    "safelight.nn.x": "class Config:\n    kind: ClassVar[str]\n"
    + "".join(f"    a{n}: int\n" for n in range(12)),
    "safelight.nn.y": """
class A:
    def f(self, a: int) -> int: ...
zip(a, b, strict=False)
m.load_state_dict(w)
""",
}


@pytest.fixture(scope="module")
def source():
    return rules.read(ROOT / "src")


TO_RENAME = {
    "adapters",
    "attachments",
    "checkpoints",
    "inspection",
}
"""Rooms that still have private words; take a room out once it has none."""


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in VIOLATIONS))
def test_the_source_keeps_the_rule(rule, source):
    if rule is rules.private_words:
        source = {name: module for name, module in source.items() if module.room not in TO_RENAME}
    assert rule(source) == []


@pytest.mark.parametrize(("rule", "sources"), VIOLATIONS)
def test_the_rule_reports_a_violation(rule, sources):
    assert len(rule(rules.parse(sources))) == 1


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in VIOLATIONS))
def test_the_rule_accepts_good_source(rule):
    assert rule(rules.parse(ALLOWED)) == []


def test_test_files_are_not_too_long():
    assert rules.long_files(rules.read(ROOT / "tests"), limit=650) == []


def test_the_floors_are_those_of_the_plan():
    drawing = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    floors: list[list[str]] = []
    for line in drawing.splitlines():
        if re.match(r"│  floor \d", line):
            floors.append([])
        elif room := re.match(r"[├└]── (\w+)", line):
            floors[-1].append(room[1])
    assert floors == rules.FLOORS


def torch_after(code: str) -> bool:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('torch' in sys.modules)"],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return {"True": True, "False": False}[run.stdout.split()[-1]]


def test_importing_the_package_does_not_import_torch():
    assert not torch_after("import safelight")
    assert torch_after("import safelight.types.tensors")  # which shows that the test can fail


def test_help_does_not_import_torch():
    ask = "import sys\nfrom safelight.cli import main\nsys.argv = ['safelight', '--help']\n"
    ask += "try:\n    main()\n"
    assert not torch_after(ask + "except SystemExit as end:\n    assert not end.code")
