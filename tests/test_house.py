"""The house is as docs/house.md says: each rule finds nothing in the source, and something in a made-up stray."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import house_rules as rules

ROOT = Path(__file__).parents[1]

COPIED = "\n".join(f"first{n} = {n}  # said {{}}\n\n" for n in range(6))
STRAYS = [
    (rules.without_floor, {"safelight.cellar": ""}),
    (rules.upward, {"safelight.nn.x": "from safelight.training import loop"}),
    (rules.upward, {"safelight.nn.x": "def f():\n    from ..model import LatentDiffusion"}),
    (rules.upward, {"safelight.data.x": "import safelight.features.x"}),
    (rules.upward, {"safelight.model": "from safelight import runtime"}),
    (rules.upward, {"safelight.pipeline": "import safelight"}),
    (rules.upward, {"safelight.pipeline": "from safelight import Settings"}),
    (rules.ground_floor, {"safelight.types": "import numpy"}),
    (rules.ground_floor, {"safelight.diffusion.x": "from ..config import read"}),
    (rules.ground_floor, {"safelight.diffusion.x": "from safelight import types_of"}),
    (rules.torch, {"safelight.governance.policy": "def f():\n    import torch"}),
    (
        rules.torch,
        {
            "safelight.config": "def f():\n    from safelight.types import Images",
            "safelight.types": "import torch",
        },
    ),
    (rules.torch, {"safelight.tasks.x": "from torch import nn"}),
    (rules.torch, {"safelight.cli": "try:\n    import torch.nn\nexcept ImportError:\n    pass"}),
    (
        rules.torch,
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
        rules.large_configs,
        {"safelight.x": "class Config:\n" + "".join(f"    a{n}: int = 1\n" for n in range(13))},
    ),
    (rules.unannotated, {"safelight.x": "class A:\n    def f(self, a: int, *, b) -> None: ..."}),
    (rules.unannotated, {"safelight.x": "async def f(a: int): ..."}),
    (rules.keyword_soup, {"safelight.x": "def f(**options: int) -> None: ..."}),
    (rules.forbidden_calls, {"safelight.x": "hasattr(a, 'b')"}),
    (rules.forbidden_calls, {"safelight.x": "a.load_state_dict(b, strict=False)"}),
    (rules.forbidden_calls, {"safelight.x": "a.load_state_dict(b, False)"}),
    (
        rules.repeated,
        {
            "safelight.x": COPIED.format(*"abcdef"),
            "safelight.y": "import torch\n" + COPIED.format(*"ghijkl"),
        },
    ),
]
ALLOWED = {
    "safelight.__init__": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import safelight.model",
    "safelight.types": "from __future__ import annotations\nimport math, torch\nfrom jaxtyping import Float",
    "safelight.diffusion.samplers": "from ..types import Step\nfrom safelight.errors import BadInput",
    "safelight.checkpoints.native": "from safelight import __version__\nfrom safelight.model import LatentDiffusion",
    "safelight.model": "import torch\nfrom safelight.nn import attention",
    "safelight.tasks.inpaint": "def start() -> None:\n    import torch\n    from safelight.model import M",
    "safelight.cli": "import safelight",
    "safelight.nn.x": "class Config:\n    kind: ClassVar[str]\n"
    + "".join(f"    a{n}: int\n" for n in range(12)),
    "safelight.nn.y": "class A:\n    def f(self, a: int) -> int: ...\nzip(a, b, strict=False)\nm.load_state_dict(w)",
}


@pytest.fixture(scope="module")
def source():
    return rules.built(ROOT / "src")


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in STRAYS))
def test_the_source_keeps_the_rule(rule, source):
    assert rule(source) == []


@pytest.mark.parametrize(("rule", "sources"), STRAYS)
def test_the_rule_reports_a_stray(rule, sources):
    assert len(rule(rules.house(sources))) == 1


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in STRAYS))
def test_the_rule_leaves_good_source_alone(rule):
    assert rule(rules.house(ALLOWED)) == []


def test_the_tests_are_short_files_too():
    assert rules.long_files(rules.built(ROOT / "tests"), limit=650) == []


def test_the_floors_are_those_of_the_plan():
    drawing = (ROOT / "docs" / "house.md").read_text("utf-8")
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
    assert torch_after("import safelight.types.tensors")  # so the question can be answered with yes


@pytest.mark.skipif(
    not (ROOT / "src/safelight/cli").exists(), reason="there is no command line yet"
)
def test_help_does_not_import_torch():
    ask = "import sys\nfrom safelight.cli import main\nsys.argv = ['safelight', '--help']\ntry:\n    main()\n"
    assert not torch_after(ask + "except SystemExit as end:\n    assert not end.code")
