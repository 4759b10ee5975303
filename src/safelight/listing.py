"""What there is to choose from, as values for a table or JSON."""

from dataclasses import asdict, fields
from typing import Any

from safelight.config import kind_of
from safelight.settings import SAMPLER


def samplers() -> list[dict[str, Any]]:
    """Kind, description and options with defaults of every sampler."""
    return [
        {
            "kind": kind_of(cls),
            **asdict(cls.info),
            "options": ", ".join(f"{item.name}={item.default}" for item in fields(cls)),
        }
        for cls in SAMPLER.all()
    ]
