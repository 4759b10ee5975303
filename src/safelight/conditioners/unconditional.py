"""No condition at all, for models of one kind of picture."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from safelight.types.networks import Condition, Prompt


@dataclass(frozen=True)
class Config:
    """There is nothing to configure."""

    def build(self) -> "Nothing":
        return Nothing(self)


class Nothing(nn.Module):
    """Whatever is prompted, the network is told nothing."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        return Condition()

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """The same."""
        return Condition()

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Nothing is learned."""
