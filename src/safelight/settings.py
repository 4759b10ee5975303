"""How a task is carried out, by names that are resolved when used: None means the model card's own default."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from safelight.config import Slot
from safelight.errors import BadInput, unknown

SAMPLER = Slot("diffusion.samplers.*")
SPACING = Slot("diffusion.spacing")
GUIDANCE = Slot("diffusion.guidance", number="classifier-free:scale")

EMPHASES = ("none", "mean", "empty")
MOST_STEPS = 10_000
MOST_PICTURES = 1_000


def _said(meaning: str) -> Any:
    return field(default=None, metadata={"help": meaning})


def _within(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise BadInput(f"{name}: wanted a whole number from {least:,} to {most:,}, got {value:,}.")


@dataclass(frozen=True)
class Settings:
    """The fields in any form that their slot reads, e.g. ``sampler="euler:eta=1"`` or ``guidance=4.5``.

    Picture i of ``count`` has the seed ``seed + i``, so each can be made again alone.
    """

    steps: int | None = _said("How many steps the sampler takes.")
    sampler: str | Mapping[str, Any] | None = _said(
        "Its kind and options: dpmpp2m, heun, euler:eta=1."
    )
    spacing: str | Mapping[str, Any] | None = _said(
        "Which times it visits: uniform, karras, shifted:shift=3."
    )
    guidance: float | str | Mapping[str, Any] | None = _said(
        "The scale, or a kind: 4.5, none, apg:scale=7, interval:scale=6."
    )
    seed: int | None = _said("Of the first picture; the next has the next seed.")
    count: int | None = _said("How many pictures.")
    one_batch: bool | None = _said("Answer guidance's questions together: faster, in more memory.")
    emphasis: str | None = _said(
        "What (word:1.3) and [from:to:0.5] do in a prompt: none (letters), mean (as in web UIs), empty (from no text)."
    )

    def __post_init__(self) -> None:
        _within("steps", self.steps, 1, MOST_STEPS)
        _within("count", self.count, 1, MOST_PICTURES)
        _within("seed", self.seed, 0, 2**63 - MOST_PICTURES)
        if self.emphasis is not None and self.emphasis not in EMPHASES:
            raise unknown("emphasis", self.emphasis, EMPHASES)

    def over(self, base: "Settings") -> "Settings":
        """These settings, with ``base`` where they say nothing."""
        said = {f.name: value for f in fields(self) if (value := vars(self)[f.name]) is not None}
        return replace(base, **said)


DEFAULTS = Settings(
    steps=20,
    sampler="dpmpp2m",
    spacing="uniform",
    guidance=4.0,
    seed=0,
    count=1,
    one_batch=True,
    emphasis="none",
)
"""What holds where neither the request nor the model's card says anything."""
