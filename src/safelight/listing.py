"""What there is to choose from, as plain values for a table or JSON."""

from dataclasses import asdict, fields
from typing import Any

from safelight.config import kind_of
from safelight.settings import SAMPLER


def samplers() -> list[dict[str, Any]]:
    """Every sampler, by its kind: its ``info``, and its options with their defaults."""
    return [
        {
            "kind": kind_of(cls),
            **asdict(cls.info),
            "options": ", ".join(f"{one.name}={one.default}" for one in fields(cls)),
        }
        for cls in SAMPLER.all()
    ]
