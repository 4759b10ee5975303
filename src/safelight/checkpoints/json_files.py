"""JSON files beside weights: read with a limit, written for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safelight.errors import BadInput

MAX_BYTES = 16 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; BadInput if it cannot be read or is something else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES:,} bytes")
        value = json.loads(data.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path.parent.name}/{path.name} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path.parent.name}/{path.name}: wanted a JSON object.")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
