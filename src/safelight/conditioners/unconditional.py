"""No condition, for models of one kind of picture."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from safelight.types.networks import Condition, Prompt


@dataclass(frozen=True)
class Config:
    """There is nothing to configure."""

    def build(self) -> "Unconditional":
        """The conditioner, which has no weights."""
        return Unconditional(self)


class Unconditional(nn.Module):
    """Prompts → an empty condition."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The empty condition."""
        return Condition()

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """The empty condition."""
        return Condition()

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Nothing to fit."""
