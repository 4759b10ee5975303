"""A class label: one learned vector for each name, and one for no name at all (arXiv 2212.09748)."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safelight.errors import BadInput, unknown
from safelight.nn.text_state import pack, unpack
from safelight.types.networks import Condition, Prompt, Tokens


@dataclass(frozen=True)
class Config:
    """Vectors of ``width`` for up to ``classes`` names; with width 0 the number is told, for a network that has the
    vectors. ``numbered``: the names are the numbers from 0 on, as DiT knows ImageNet's classes, and none is learned.
    ``attended``: the vector is a token to be attended to (arXiv 2112.10752). ``absence``: no name is a class as well.
    """

    classes: int = 10
    width: int = 256
    numbered: bool = False
    attended: bool = False
    absence: bool = True

    def __post_init__(self) -> None:
        if self.classes < 1 or self.width < 0:
            raise BadInput(
                f"there must be 1 class or more, of width 0 or more, not {self.classes} of {self.width}."
            )
        if self.attended and not self.width:
            raise BadInput(
                "a class that is attended to needs a width; give one, or leave attended out."
            )

    def build(self) -> "Label":
        """The table, freshly initialised; it has to ``fit`` its names before it is called."""
        return Label(self)


class Label(nn.Module):
    """``given["label"]``, else the text, as the name of a class → ``vector`` (b, width), ``tokens`` (b, 1, width) or
    ``scalars["label"]`` (b,).

    No name, where it is known, is the class after the last.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.names = Names(tuple(map(str, range(config.classes))) if config.numbered else ())
        self.table = (
            nn.Embedding(config.classes + config.absence, config.width) if config.width else None
        )
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.02)

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Learn the names from ``given["label"]``; BadInput if there are none, or more than there are classes.

        Numbered classes have their names: the labels must be among them.
        """
        if self.config.numbered:
            for prompt in prompts:
                self.row(str(prompt.given.get("label", "")))
            return
        names = sorted(
            {str(prompt.given["label"]) for prompt in prompts if "label" in prompt.given} - {""}
        )
        if not names:
            raise BadInput("no picture has a label; a conditioner on labels has nothing to learn.")
        if len(names) > self.config.classes:
            raise BadInput(
                f"the data has {len(names)} labels, but there are {self.config.classes} classes; set more."
            )
        self.names.known = tuple(names)

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of ``prompts``; BadInput for a name that was never learned."""
        return self.told(
            [self.row(str(prompt.given.get("label", prompt.text))) for prompt in prompts]
        )

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """No name for each prompt, or the prompts' own names if ``only`` leaves the label alone."""
        if only is not None and "label" not in only:
            return self.forward(prompts)
        return self.told([self.row("")] * len(prompts))

    def row(self, name: str) -> int:
        """Where the vector of ``name`` lies in the table; BadInput for one that it does not know."""
        if name == "":
            if not self.config.absence:
                raise BadInput(
                    "this model was taught a class in every picture: name one, and take guidance none."
                )
            return self.config.classes
        if not self.names.known:
            raise BadInput(
                "this conditioner knows no labels yet; train it on labelled pictures or load its weights."
            )
        if name not in self.names.known:
            raise unknown("class", name, self.names.known)
        return self.names.known.index(name)

    def told(self, rows: Sequence[int]) -> Condition:
        """The condition of these rows of the table, the last of which is no name at all."""
        return self.encode(
            torch.tensor(rows, device=None if self.table is None else self.table.weight.device)
        )

    def encode(self, rows: Tensor) -> Condition:
        """The tensor part, which can be compiled: ``rows`` (b,) → the condition."""
        if self.table is None:
            return Condition(scalars={"label": rows})
        vector = self.table(rows)
        if not self.config.attended:
            return Condition(vector=vector)
        return Condition(
            tokens=Tokens(vector[:, None], torch.ones_like(rows[:, None], dtype=torch.bool))
        )


class Names(nn.Module):
    """The names of the classes in the order of their rows; they travel in the state dict."""

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.known = known

    def get_extra_state(self) -> Tensor:
        return pack(json.dumps(self.known))

    def set_extra_state(self, state: Tensor) -> None:
        self.known = tuple(json.loads(unpack(state)))
