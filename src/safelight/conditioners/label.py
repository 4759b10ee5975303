"""Class labels: a learned vector for each class and one for the null class (arXiv 2212.09748)."""

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
    """Vectors of ``width`` for up to ``classes`` names.

    With width 0 the class number is passed on, for a denoiser that embeds it itself (DiT).
    ``numeric_labels``: the names are the numbers from 0 on, as for ImageNet, and nothing is fitted.
    ``as_token``: the vector is a token to attend to (arXiv 2112.10752) instead of a vector.
    ``null_class``: there is one more class, for no label.
    """

    classes: int = 10
    width: int = 256
    numeric_labels: bool = False
    as_token: bool = False
    null_class: bool = True

    def __post_init__(self) -> None:
        if self.classes < 1 or self.width < 0:
            raise BadInput(
                f"there must be 1 class or more, of width 0 or more, "
                f"not {self.classes} of {self.width}."
            )
        if self.as_token and not self.width:
            raise BadInput("a class as a token needs a width; set one, or leave as_token out.")

    def build(self) -> "Label":
        """The embedding, freshly initialised; ``fit`` its names before calling it."""
        return Label(self)


class Label(nn.Module):
    """The name of a class, ``given["label"]`` or else the text, → ``vector`` (b, width).

    By configuration it is ``tokens`` (b, 1, width) or ``scalars["label"]`` (b,) instead. The null
    class, of the empty name, comes after the last one.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.names = Names(tuple(map(str, range(config.classes))) if config.numeric_labels else ())
        self.embedding = (
            nn.Embedding(config.classes + config.null_class, config.width) if config.width else None
        )
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.02)

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Collect the names from ``given["label"]``; BadInput for none, or more than ``classes``.

        Numeric labels have their names already; BadInput for a label that is not among them.
        """
        if self.config.numeric_labels:
            for prompt in prompts:
                self.row(str(prompt.given.get("label", "")))
            return
        names = sorted(
            {str(prompt.given["label"]) for prompt in prompts if "label" in prompt.given} - {""}
        )
        if not names:
            raise BadInput("no picture has a label; a conditioner on labels needs some.")
        if len(names) > self.config.classes:
            raise BadInput(
                f"the data has {len(names)} labels, but there are {self.config.classes} classes; "
                "set classes higher."
            )
        self.names.known = tuple(names)

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of ``prompts``; BadInput for an unknown name."""
        return self._condition(
            [self.row(str(prompt.given.get("label", prompt.text))) for prompt in prompts]
        )

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """The null class, or the prompts' own classes if ``only`` does not name ``label``."""
        if only is not None and "label" not in only:
            return self.forward(prompts)
        return self._condition([self.row("")] * len(prompts))

    def row(self, name: str) -> int:
        """The number of the class of this name; BadInput for an unknown one."""
        if name == "":
            if not self.config.null_class:
                raise BadInput(
                    "this model was trained with a class for every picture: name one, and set "
                    "guidance to none."
                )
            return self.config.classes
        if not self.names.known:
            raise BadInput(
                "this conditioner knows no labels yet; "
                "train it on labelled pictures or load its weights."
            )
        if name not in self.names.known:
            raise unknown("class", name, self.names.known)
        return self.names.known.index(name)

    def _condition(self, rows: Sequence[int]) -> Condition:
        device = None if self.embedding is None else self.embedding.weight.device
        return self.encode(torch.tensor(rows, device=device))

    def encode(self, rows: Tensor) -> Condition:
        """Class numbers (b,) → the condition; only tensors, so that it can be compiled."""
        if self.embedding is None:
            return Condition(scalars={"label": rows})
        vector = self.embedding(rows)
        if not self.config.as_token:
            return Condition(vector=vector)
        return Condition(
            tokens=Tokens(vector[:, None], torch.ones_like(rows[:, None], dtype=torch.bool))
        )


class Names(nn.Module):
    """The names of the classes in order, kept in the state dict."""

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.known = known

    def get_extra_state(self) -> Tensor:
        return pack(json.dumps(self.known))

    def set_extra_state(self, state: Tensor) -> None:
        self.known = tuple(json.loads(unpack(state)))
