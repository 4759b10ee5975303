"""Several conditioners as one, each with its own dropout and null condition.

Text with a class label, text with a segmentation map, text with boxes: every part reads the same
prompts, and their conditions are combined into one.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from safelight.conditioners import text_readers
from safelight.config import Slot
from safelight.diffusion.condition import choose
from safelight.errors import BadInput
from safelight.types.networks import Condition, Conditioner, Prompt, Tokens


@dataclass(frozen=True)
class Part:
    """A conditioner, and how often training drops its condition alone.

    That is in addition to the objective's own ``dropout``, which drops all conditions at once.
    """

    conditioner: Annotated[Any, Slot("conditioners")]
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise BadInput(f"dropout must be from 0 to 1, not {self.dropout}.")


@dataclass(frozen=True)
class Config:
    """``parts`` are conditioners by name, in the order in which they are combined."""

    parts: Mapping[str, Part]

    def __post_init__(self) -> None:
        if not self.parts:
            raise BadInput("a joined conditioner needs at least one part; name conditioners.")
        for name, part in self.parts.items():
            if isinstance(part.conditioner, Config):
                raise BadInput(f"{name} is joined itself: list all conditioners in one.")
            if not name.isidentifier():
                raise BadInput(
                    f"the name of a conditioner must be letters, digits and underscores, "
                    f"not {name!r}."
                )

    def build(self) -> "Joined":
        """The conditioners, freshly initialised; BadInput for a name that PyTorch reserves."""
        for name in self.parts:
            if name in dir(nn.ModuleDict):
                raise BadInput(f"a conditioner cannot be called {name!r}; choose another name.")
        return Joined(self)


class Joined(nn.Module):
    """The prompts → the conditions of all parts, combined by ``combine``.

    If any part reads text, the text is for those parts alone: others read only what ``given``
    holds by name, so that a caption is not taken for the name of a class.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.parts = nn.ModuleDict(
            {name: part.conditioner.build() for name, part in config.parts.items()}
        )
        self.readers = frozenset(name for name, part in self.parts.items() if text_readers(part))

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Fit every part to the prompts."""
        prompts = list(prompts)
        for name, part in self._conditioners().items():
            part.fit(self._prompts(name, prompts))

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The conditions of all parts as one; BadInput if they cannot be combined."""
        return combine(
            {
                name: part(self._prompts(name, prompts))
                for name, part in self._conditioners().items()
            }
        )

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """The null conditions of all parts, or only of those that ``only`` names.

        A part is named by its own name, or by what it reads: ``text``, ``label``, ``segments``.
        """
        return combine(
            {
                name: part.null_condition(
                    self._prompts(name, prompts), None if only and name in only else only
                )
                for name, part in self._conditioners().items()
            }
        )

    @property
    def dropout(self) -> Mapping[str, float]:
        """How often training drops the condition of each part alone."""
        return {name: part.dropout for name, part in self.config.parts.items()}

    def with_dropped(
        self, prompts: Sequence[Prompt], dropped: Mapping[str, Bool[Tensor, " b"]]
    ) -> Condition:
        """The condition of ``prompts`` with null conditions where ``dropped`` is true, by part."""
        conditions = {}
        for name, part in self._conditioners().items():
            own = self._prompts(name, prompts)
            conditions[name] = choose(dropped[name], part.null_condition(own), part(own))
        return combine(conditions)

    def _conditioners(self) -> dict[str, Conditioner]:
        return {name: part for name, part in self.parts.items() if isinstance(part, Conditioner)}

    def _prompts(self, name: str, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts as the part of this name reads them."""
        if not self.readers or name in self.readers:
            return prompts
        return [replace(prompt, text="") for prompt in prompts]


def combine(conditions: Mapping[str, Condition]) -> Condition:
    """Conditions of one batch, by name, as one condition.

    Tokens are concatenated along the sequence, vectors are added, channels are concatenated, and
    scalars, streams, references and residuals are put together. BadInput if widths or sizes
    disagree, or if two conditions have a scalar of the same name.
    """
    if len(conditions) == 1:
        return next(iter(conditions.values()))
    values = conditions.values()
    return Condition(
        tokens=_tokens({name: one.tokens for name, one in conditions.items() if one.tokens}),
        streams=tuple(stream for one in values for stream in one.streams),
        vector=_vector(_present(conditions, "vector")),
        scalars=_scalars({name: one.scalars for name, one in conditions.items()}),
        channels=_channels(_present(conditions, "channels")),
        references=tuple(latents for one in values for latents in one.references),
        residuals=tuple(residual for one in values for residual in one.residuals),
    )


def _present(conditions: Mapping[str, Condition], way: str) -> dict[str, Tensor]:
    tensors = {name: vars(condition)[way] for name, condition in conditions.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _tokens(tokens: Mapping[str, Tokens]) -> Tokens | None:
    if not tokens:
        return None
    widths = {name: one.values.shape[-1] for name, one in tokens.items()}
    _require_equal(widths, "tokens of width", "their tokens are concatenated")
    return Tokens(
        torch.cat([one.values for one in tokens.values()], dim=1),
        torch.cat([one.mask for one in tokens.values()], dim=1),
    )


def _vector(vectors: Mapping[str, Tensor]) -> Tensor | None:
    widths = {name: vector.shape[-1] for name, vector in vectors.items()}
    _require_equal(widths, "vectors of width", "their vectors are added")
    return torch.stack(list(vectors.values())).sum(dim=0) if vectors else None


def _channels(channels: Mapping[str, Tensor]) -> Tensor | None:
    sizes = {name: "×".join(map(str, one.shape[2:])) for name, one in channels.items()}
    _require_equal(sizes, "channels of size", "their channels are concatenated")
    return torch.cat(list(channels.values()), dim=1) if channels else None


def _scalars(scalars: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    combined: dict[str, Tensor] = {}
    for name, own in scalars.items():
        for scalar, value in own.items():
            if scalar in combined:
                raise BadInput(
                    f"{name} and another conditioner both make the scalar {scalar!r}: "
                    "leave one of them out."
                )
            combined[scalar] = value
    return combined


def _require_equal(values: Mapping[str, object], what: str, why: str) -> None:
    """BadInput, with the names of conditioners, unless all values are the same."""
    if len(set(values.values())) > 1:
        listed = ", ".join(f"{name} makes {what} {value}" for name, value in values.items())
        raise BadInput(f"{listed}: {why}, so configure all of them alike.")
