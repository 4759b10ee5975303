"""The recipe of a run: one frozen, validated configuration, read from TOML."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from safelight.config import Builds, Slot
from safelight.data.examples import Source
from safelight.data.framing import Framing
from safelight.errors import BadInput
from safelight.training.objective import Objective, RunContext
from safelight.training.optimisers import Adamw


class BuildsObjective(Protocol):
    """The configuration of a stage of training."""

    def build(self, context: RunContext) -> Objective: ...


@dataclass(frozen=True)
class Rate:
    """The learning rate: a linear warm-up to ``peak``, then constant or falling.

    It falls to ``floor`` times ``peak``, along a cosine or a line.
    """

    peak: float = 1e-4
    warmup: int = 100  # updates
    decay: Literal["constant", "cosine", "linear"] = "constant"
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.peak < math.inf or self.warmup < 0 or not 0 <= self.floor <= 1:
            raise BadInput(f"rate: wanted peak ≥ 0, warmup ≥ 0 and floor from 0 to 1, got {self}.")

    def at(self, update: int, updates: int) -> float:
        """The learning rate of an update, counted from 0, of ``updates`` in all."""
        if update < self.warmup:
            return self.peak * (update + 1) / self.warmup
        done = (update - self.warmup) / max(1, updates - self.warmup)
        falls = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, done))),
        }
        return self.peak * (self.floor + (1 - self.floor) * max(0.0, falls[self.decay]))


@dataclass(frozen=True)
class Loop:
    """How long to train, with how many pictures at once and in which precision."""

    updates: int = 10_000
    batch: int = 32  # pictures an update, over all processes and micro-batches
    accumulate: int = 1  # micro-batches an update
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of computing; weights are fp32
    device: str = "auto"
    ema: float = 0.999  # decay of the running mean of the weights, which is saved; 0: none
    clip: float = 1.0  # largest norm of a group's gradient; 0: no limit
    recompute: bool = False  # activations in the backward pass (gradient checkpointing)
    compile: bool = False  # the blocks, with torch.compile

    def __post_init__(self) -> None:
        if min(self.updates, self.batch, self.accumulate) < 1 or self.batch % self.accumulate:
            raise BadInput(
                "loop: wanted updates ≥ 1, batch ≥ 1 and accumulate ≥ 1 that divides batch, "
                f"got {self.updates}, {self.batch} and {self.accumulate}."
            )
        if not 0 <= self.ema < 1:
            raise BadInput(f"loop: wanted ema from 0 to below 1, got {self.ema}.")


@dataclass(frozen=True)
class Watch:
    """How often to log, validate and save, in updates; 0: only at the end."""

    write: int = 20  # metrics are logged
    check: int = 500  # the validation data is evaluated
    sheet: int = 500  # a sheet of samples is drawn
    save: int = 250  # a checkpoint is saved
    keep: int = 2  # how many checkpoints are kept
    pictures: int = 256  # how many are evaluated at a check

    def __post_init__(self) -> None:
        intervals = (self.write, self.check, self.sheet, self.save)
        if min(intervals) < 0 or min(self.keep, self.pictures) < 1:
            raise BadInput(f"watch: wanted keep ≥ 1, pictures ≥ 1 and the others ≥ 0, got {self}.")


@dataclass(frozen=True)
class Recipe:
    """A whole run. Without ``validation`` some of the training ``data`` is evaluated instead."""

    objective: Annotated[BuildsObjective, Slot("training.objectives")]
    data: Annotated[Builds[Source], Slot("data.sources")]
    title: str = ""
    validation: Annotated[Builds[Source], Slot("data.sources")] | None = None
    framing: Framing = field(default_factory=Framing)
    optimiser: Annotated[Any, Slot("training.optimisers")] = field(default_factory=Adamw)
    rate: Rate = field(default_factory=Rate)
    loop: Loop = field(default_factory=Loop)
    watch: Watch = field(default_factory=Watch)
    seed: int = 0
    licence: str = ""  # of the trained model; empty: see those of the data
