"""Texts read by networks that others trained: CLIP's and T5's towers, joined as a family joins them.

One tower (Stable Diffusion 1 and 2), two side by side with the picture's size (SDXL, arXiv 2307.01952), two beside a
third (Stable Diffusion 3, arXiv 2403.03206), one for tokens and one for the vector (FLUX.1): all are configurations.
"""

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.conditioners._encoder import Reader, Tower
from safelight.errors import BadInput, Note, unknown
from safelight.nn.embeddings import sinusoidal
from safelight.prompting.prompts import beyond_max_length, emphasis, weighted_sections
from safelight.prompting.syntax import WeightedText
from safelight.tokenization.chunks import shown
from safelight.types.networks import Condition, Prompt, Tokens

Number = Literal["original_size", "crop", "target_size", "aesthetic_score"]


@dataclass(frozen=True)
class Config:
    """``towers`` of one row stand side by side along the features; rows follow each other along the sequence, the
    narrow ones filled up with zeros. The vector is that of each pooled tower, then ``sizes`` as sinusoids of so many
    ``frequencies`` a number.

    ``native``: the height and width that a prompt without a size is taken for. ``empty``: what no prompt at all is,
    the encoding of the empty text, or zeros (SDXL's base).
    """

    towers: tuple[Tower, ...] = (Tower(),)
    sizes: tuple[Number, ...] = ()
    frequencies: int = 256
    native: tuple[int, int] = (1024, 1024)
    empty: Literal["encoded", "zeros"] = "encoded"

    def __post_init__(self) -> None:
        if all(tower.row is None for tower in self.towers):
            raise BadInput(
                "at least one tower must have a row, so that there are tokens to attend to."
            )

    def build(self) -> "Towers":
        """The towers, freshly initialised; nothing is downloaded."""
        return Towers(self)


class Towers(nn.Module):
    """The prompts' texts → ``tokens`` (b, n, width) and, if a tower is pooled or there are sizes, ``vector`` (b, d).

    Of ``given`` it reads ``original_size``, ``crop`` (top, left), ``target_size``, ``aesthetic_score``, ``negative``,
    ``picture_size``, which both sizes are by default, all heights first; and ``emphasis``, what brackets do: in
    ``none`` they are letters, the others read the web UI's syntax and scale the states of pieces, where ``mean`` keeps
    the mean of a page and ``empty`` scales the distance from the empty text.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.towers = nn.ModuleList(Reader(tower) for tower in config.towers)
        self.said_absent = False

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Nothing: these towers read with the words that they were trained with."""

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of ``prompts``; BadInput if a tower has no tokenizer yet."""
        keys = [(prompt.text, emphasis(prompt)) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))  # equal texts are encoded once
        tokens, vectors = self.encode(
            [weighted_sections(prompt) for prompt in distinct.values()],
            [mode for _, mode in distinct],
        )
        rows = {key: row for row, key in enumerate(distinct)}
        which = torch.tensor([rows[key] for key in keys], device=tokens.values.device)
        vector = self.vector([one[which] for one in vectors], prompts)
        return Condition(tokens=Tokens(tokens.values[which], tokens.mask[which]), vector=vector)

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """No text for each prompt, or the prompts' own if ``only`` leaves text alone; sizes stay in any case."""
        if only is not None and "text" not in only:
            return self.forward(prompts)
        tokens, vectors = self.encode([[[("", 1.0)]]], ["none"])
        values, mask = (
            one.expand(len(prompts), *one.shape[1:]) for one in (tokens.values, tokens.mask)
        )
        vectors = [one.expand(len(prompts), -1) for one in vectors]
        if self.config.empty == "zeros":
            values, vectors = torch.zeros_like(values), [torch.zeros_like(one) for one in vectors]
        negatives = [replace(one, given={"negative": True, **one.given}) for one in prompts]
        return Condition(tokens=Tokens(values, mask), vector=self.vector(vectors, negatives))

    def check_embedding(self, name: str, vectors: Sequence[Tensor]) -> None:
        """BadInput if these are no vectors for the towers that are here."""
        widths = sorted({reader.width for reader in self._readers()})
        for one in vectors:
            if one.ndim != 2 or one.shape[1] not in widths:
                raise BadInput(
                    f"the learned word {name!r} has vectors of shape {tuple(one.shape)}; this model's text towers take "
                    f"(n, {' or '.join(map(str, widths))}): it belongs to another model."
                )

    def add_embedding(self, name: str, vectors: Sequence[Tensor]) -> None:
        """Let ``name``, in any case, stand for learned vectors (n, width) in every tower of that width (textual
        inversion, arXiv 2208.01618); BadInput if there is none. An earlier word of that name is replaced."""
        self.check_embedding(name, vectors)
        for reader in self._readers():
            mine = [one for one in vectors if one.shape[1] == reader.width]
            reader.learned.pop(name.lower(), None)
            if mine:
                reader.learned[name.lower()] = mine[0]

    def remove_embedding(self, name: str) -> None:
        """Read ``name`` as any other text again; BadInput if it was not added."""
        readers = self._readers()
        if not any(name.lower() in reader.learned for reader in readers):
            raise unknown(
                "learned word", name, {one for reader in readers for one in reader.learned}
            )
        for reader in readers:
            reader.learned.pop(name.lower(), None)

    @property
    def reads_weights(self) -> bool:
        """True: weights scale the states of tokens."""
        return True

    def truncated(self, prompt: Prompt) -> list[str]:
        """What of a prompt each tower whose tokens are attended to leaves out, as sentences: it is too long."""
        said = []
        for reader in (one for one in self._readers() if one.tower.row is not None):
            left = reader.truncated(weighted_sections(prompt)) + beyond_max_length(prompt)
            if left.strip():
                kind, most = reader.tower.words.upper(), reader.tower.chunks * reader.frame.room
                said.append(
                    f"the {kind} tower reads {most} pieces of a prompt; not read: {shown(left)}"
                )
        return said

    def encode(
        self, texts: Sequence[list[list[WeightedText]]], modes: Sequence[str]
    ) -> tuple[Tokens, list[Tensor]]:
        """The joined tokens, and the vectors of the pooled towers in their order."""
        readers = self._readers()
        pages = [[reader.pages(text) for text in texts] for reader in readers]
        here = next(self.parameters())
        rows: dict[int, list[Tokens]] = {}
        vectors: list[Tensor] = []
        for reader, mine in zip(readers, pages, strict=True):
            beside = [
                theirs
                for one, theirs in zip(readers, pages, strict=True)
                if one.tower.row == reader.tower.row
            ]
            counts = [max(map(len, same)) for same in zip(*beside, strict=True)]
            blank = reader.frame.page([])
            filled = [
                one + [blank] * (count - len(one)) for one, count in zip(mine, counts, strict=True)
            ]
            tokens, vector = reader.encode(filled, modes)
            if reader.tower.row is not None:
                moved = Tokens(tokens.values.to(here), tokens.mask.to(here.device))
                rows.setdefault(reader.tower.row, []).append(moved)
            if vector is not None:
                vectors.append(vector)
        self._say_absent()
        return _joined([rows[row] for row in sorted(rows)]), vectors

    def vector(self, vectors: Sequence[Tensor], prompts: Sequence[Prompt]) -> Tensor | None:
        """The pooled vectors, then the sinusoids of what each prompt gives: (b, d)."""
        if not self.config.sizes:
            return torch.cat(list(vectors), dim=-1) if vectors else None
        weight = next(self.parameters())
        numbers = torch.tensor(
            [self.numbers(prompt) for prompt in prompts], device=weight.device
        )  # (b, k)
        waves = sinusoidal(numbers.flatten(), self.config.frequencies).view(len(prompts), -1)
        return torch.cat([*vectors, waves.to(weight.dtype)], dim=-1)

    def numbers(self, prompt: Prompt) -> list[float]:
        """The numbers that ``sizes`` asks of a prompt; BadInput if one is none."""
        given = prompt.given
        size = given.get("picture_size", self.config.native)
        usual = {
            "original_size": size,
            "crop": (0, 0),
            "target_size": size,
            "aesthetic_score": 2.5 if given.get("negative") else 6.0,
        }
        return [
            one
            for name in self.config.sizes
            for one in _numbers(name, given.get(name, usual[name]))
        ]

    def _readers(self) -> list[Reader]:
        return [reader for reader in self.towers if isinstance(reader, Reader)]

    def _say_absent(self) -> None:
        absent = [tower for tower in self.config.towers if tower.absent]
        if absent and not self.said_absent:
            self.said_absent = True
            kinds = " and ".join(sorted({tower.words.upper() for tower in absent}))
            warnings.warn(
                f"this model reads without its {kinds} tower: zeros stand in its place.",
                Note,
                stacklevel=4,
            )


def _joined(rows: Sequence[Sequence[Tokens]]) -> Tokens:
    """Side by side, filled up to the widest, one after the other."""
    values = [torch.cat([one.values for one in row], dim=-1) for row in rows]
    widest = max(one.shape[-1] for one in values)
    filled = [F.pad(one, (0, widest - one.shape[-1])) for one in values]
    return Tokens(torch.cat(filled, dim=1), torch.cat([row[0].mask for row in rows], dim=1))


def _numbers(name: str, value: Any) -> list[float]:
    wanted = 1 if name == "aesthetic_score" else 2
    numbers = [*value] if isinstance(value, list | tuple) else [value]
    if len(numbers) != wanted or not all(isinstance(one, int | float) for one in numbers):
        raise BadInput(
            f"{name}: wanted {'a number' if wanted == 1 else 'two numbers'}, got {value!r}."
        )
    return [float(one) for one in numbers]
