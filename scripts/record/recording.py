"""What the scripts of this folder share: where recordings lie, what is drawn for them, how they
are written down."""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers import File, read
from safetensors.torch import save_file
from torch import Tensor

RECORDED = Path(__file__).parents[2] / "tests" / "recorded"
sys.path.append(str(RECORDED.parent))

import drawn  # noqa: E402

DRAWN = drawn.DRAWN


def opened(family: str) -> Path:
    """A recording's folder with the weights in it."""
    place = drawn.folder(family)
    assert place is not None
    return place


def weights(family: str, name: str = "model.safetensors") -> File:
    return read(opened(family) / name)


def numbers(name: str, *shape: int) -> Tensor:
    """Inputs are drawn like weights; their deviation is a little over 1."""
    return drawn.noise(name, shape).float() / 64


def record(
    place: Path, inputs: File, outputs: File, config: Mapping[str, Any] | None = None
) -> None:
    for what, tensors in (("inputs", inputs), ("outputs", outputs)):
        save_file(
            {key: one.clone().contiguous() for key, one in tensors.items()},
            place / f"{what}.safetensors",
        )
    ran = [
        {"package": name, "version": version(name), "licence": "Apache-2.0"}
        for name in ("diffusers", "transformers")
    ]
    facts = {
        "family": place.name,
        "source": [*ran, {"package": "torch", "version": version("torch").partition("+")[0]}],
        "made by": f"scripts/record/{Path(sys.argv[0]).name}",
        "weights": "drawn by tests/drawn.py from ../layouts.zip, upcast to fp32",
        "config": config or {},
    }
    (place / "golden.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
