"""How a task is carried out, by names that are resolved when used: None means the model card's own
default."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from safelight.config import Slot
from safelight.errors import BadInput, unknown
from safelight.prompting.syntax import EMPHASES

SAMPLER = Slot("diffusion.samplers.*")
SPACING = Slot("diffusion.spacing.*")
GUIDANCE = Slot("diffusion.guidance", number="classifier-free:scale")

MOST_STEPS = 10_000
MOST_PICTURES = 1_000


def _option(meaning: str) -> Any:
    return field(default=None, metadata={"help": meaning})


def _within(name: str, value: int | None, lowest: int, highest: int) -> None:
    if value is not None and not lowest <= value <= highest:
        raise BadInput(
            f"{name}: wanted a whole number from {lowest:,} to {highest:,}, got {value:,}."
        )


@dataclass(frozen=True)
class Settings:
    """The fields in any form that their slot reads, e.g. ``sampler="euler:eta=1"`` or
    ``guidance=4.5``.

    Picture i of ``count`` has the seed ``seed + i``, so each can be made again alone.
    """

    steps: int | None = _option("How many steps the sampler takes; 20 to 50 is usual.")
    sampler: str | Mapping[str, Any] | None = _option(
        "The sampler and its options: dpmpp2m, heun, euler:eta=1. safelight samplers lists them."
    )
    spacing: str | Mapping[str, Any] | None = _option(
        "How the noise levels of the steps are spaced (web UIs: schedule type): "
        "uniform, karras, shifted:shift=3."
    )
    guidance: float | str | Mapping[str, Any] | None = _option(
        "How strongly the picture follows the prompt: 4.5, none; or a kind of guidance with "
        "its options: apg:scale=7, interval:scale=6."
    )
    seed: int | None = _option(
        "The seed of the first picture; each further picture has the next seed. "
        "The same seed gives the same picture."
    )
    count: int | None = _option("How many pictures to make.")
    one_batch: bool | None = _option(
        "Run the network on the prompt and on the negative prompt in one batch: faster, but takes "
        "more memory. --no-one-batch runs them one after the other."
    )
    emphasis: str | None = _option(
        "What brackets such as (fox:1.3) and [day:night:0.5] in a prompt do: none (they are "
        "ordinary characters), mean (weighted as in web UIs) or empty (weighted from the empty "
        "prompt)."
    )

    def __post_init__(self) -> None:
        _within("steps", self.steps, 1, MOST_STEPS)
        _within("count", self.count, 1, MOST_PICTURES)
        _within("seed", self.seed, 0, 2**63 - MOST_PICTURES)
        if self.emphasis is not None and self.emphasis not in EMPHASES:
            raise unknown("emphasis", self.emphasis, EMPHASES)

    def over(self, base: "Settings") -> "Settings":
        """These settings, with ``base`` where they are None."""
        own = {name: value for name, value in vars(self).items() if value is not None}
        return replace(base, **own)


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
