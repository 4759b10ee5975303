"""One tower as a conditioner uses it: its network, its words, and what is taken of its states."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from safelight.config import Slot
from safelight.errors import BadInput
from safelight.nn.text_models import Network, clip
from safelight.prompting.syntax import WeightedText
from safelight.tokenization.chunks import Frame, Page, pages, unread
from safelight.tokenization.tokenizers import Kind
from safelight.tokenization.vocabulary import Words
from safelight.types.networks import Tokens


@dataclass(frozen=True)
class Tower:
    """A network that reads ``length`` pieces at once, at most ``chunks`` times; what is longer is cut.

    Its tokens are the states before the last ``skip`` blocks, after the final ``norm`` or not; ``row`` says where they
    stand, None that nothing attends to them. ``pooled``: whether the normed state at the end of the text is a vector,
    and if so, whether it is projected. ``pad``: what fills the page, the end again, the first piece or one of its own.
    ``absent``: the file lacks the network, and zeros stand for its tokens.
    """

    network: Annotated[Network, Slot("nn.text_models")] = field(default_factory=clip.Config)
    words: Kind = "clip"
    length: int = 77
    chunks: int = 8
    pad: Literal["end", "zero", "own"] = "end"
    skip: int = 0
    norm: bool = True
    row: int | None = 0
    pooled: Literal["none", "plain", "projected"] = "none"
    absent: bool = False

    def __post_init__(self) -> None:
        if self.network.length and self.length > self.network.length:
            raise BadInput(
                f"a length of {self.length} pieces is more than the {self.network.length} that it can read."
            )
        if self.length < 3 or self.chunks < 1 or not 0 <= self.skip < self.network.depth:
            raise BadInput(
                f"wanted a length of 3 or more, a chunk or more and a skip within {self.network.depth} blocks, got "
                f"{self.length}, {self.chunks} and {self.skip}."
            )
        if self.pooled == "projected" and not self.network.projection:
            raise BadInput("a projected vector needs a tower with a projection; this one has none.")
        if self.pad == "end" and self.words == "ids":
            raise BadInput("written ids have no end to pad with: pad with zero or own.")
        if self.pooled != "none" and (self.words != "clip" or self.absent):
            raise BadInput("a vector is taken from a CLIP tower that is there.")


class Reader(nn.Module):
    """Weighted texts → the tower's tokens and vector."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        self.words = Words(tower.words, tower.network.vocabulary)
        self.network = None if tower.absent else tower.network.build()
        self.learned: dict[str, Tensor] = {}

    @property
    def width(self) -> int:
        return self.tower.network.width

    @property
    def frame(self) -> Frame:
        """The page that this tower reads."""
        if self.tower.absent:
            return Frame(self.tower.length, (), (0,), 0)
        pad = {"end": self.words.end, "zero": 0, "own": self.words.pad}[self.tower.pad]
        return Frame(self.tower.length, self.words.ahead, self.words.behind, pad, self.words.left)

    def pages(self, chunks: Sequence[Sequence[WeightedText]]) -> list[Page]:
        """A weighted text as the pages that this tower reads."""
        if self.tower.absent:
            return [self.frame.page([])]
        return pages(
            self._looked_at(chunks),
            self.frame,
            self.tower.chunks,
            self.words.pieces,
            self._learned(),
        )

    def truncated(self, chunks: Sequence[Sequence[WeightedText]]) -> str:
        """What of a weighted text is left out, because it is longer than this tower's pages."""
        if self.tower.absent:
            return ""
        short = self._looked_at(chunks)
        left = unread(
            short,
            self.frame,
            self.tower.chunks,
            self.words.pieces,
            self._learned(),
            self.words.rest,
        )
        return left + "".join(text[self._longest :] for chunk in chunks for text, _ in chunk)

    @property
    def _longest(self) -> int:
        """How many letters of a text are looked at: no piece is longer than 64."""
        return 64 * self.tower.chunks * self.tower.length

    def _looked_at(self, chunks: Sequence[Sequence[WeightedText]]) -> list[list[WeightedText]]:
        return [[(text[: self._longest], weight) for text, weight in chunk] for chunk in chunks]

    def _learned(self) -> dict[str, Sequence[int]]:
        """The ids of learned words, behind the tower's own."""
        ids: dict[str, Sequence[int]] = {}
        first = self.tower.network.vocabulary
        for name, vectors in self.learned.items():
            ids[name] = range(first, first + len(vectors))
            first += len(vectors)
        return ids

    def encode(
        self, texts: Sequence[Sequence[Page]], modes: Sequence[str]
    ) -> tuple[Tokens, Tensor | None]:
        """Pages of each text → its tokens (b, n, width), one page after the other, and vector, that of the first."""
        longest = max(map(len, texts), default=1)
        where = torch.tensor(
            [[page < len(text) for page in range(longest)] for text in texts]
        )  # (b, pages)
        ids = torch.tensor([page.ids for text in texts for page in text])
        scales = torch.tensor([page.weights for text in texts for page in text])
        states, vector = self.states(ids)
        here = where.to(states.device)
        for mode in sorted(set(modes) - {"none"}):
            chosen = torch.tensor(
                [mode == one for one, text in zip(modes, texts, strict=True) for _ in text]
            )
            weighted = self.weighted(states, scales.to(states), mode)
            states = torch.where(chosen.to(states.device)[:, None, None], weighted, states)
        values = states.new_zeros(*where.shape, *states.shape[1:])
        values[here] = states
        mask = here[:, :, None].expand(-1, -1, self.tower.length)
        first = where.cumsum(dim=1)[where] == 1
        return Tokens(values.flatten(1, 2), mask.flatten(1)), None if vector is None else vector[
            first.to(vector.device)
        ]

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ids (p, n) → states (p, n, width) and, if pooled, vectors (p, d)."""
        tower = self.tower
        if self.network is None:
            return torch.zeros(*ids.shape, self.width), None
        counts = ids != self.words.pad if tower.pad == "own" else None
        states, last = self.network(self.embed(ids), tower.skip, tower.pooled != "none", counts)
        if tower.norm:
            states = last if tower.skip == 0 and last is not None else self.network.norm(states)
        if last is None:
            return states, None
        ends = ids.eq(self.words.end).int().argmax(dim=1).to(last.device)
        vector = last[torch.arange(len(ids), device=last.device), ends]  # (p, width)
        return states, self.network.project(vector) if tower.pooled == "projected" else vector

    def embed(self, ids: Tensor) -> Tensor:
        """The vectors of ids (p, n), those of learned words behind the tower's own: (p, n, width)."""
        assert self.network is not None
        table = self.network.embedding
        ids = ids.to(table.weight.device)
        own: Tensor = table(ids.clamp(max=table.num_embeddings - 1))
        if not self.learned:
            return own
        learned = torch.cat(
            [own.new_zeros(1, self.width), *(one.to(own) for one in self.learned.values())]
        )
        extra = (ids - table.num_embeddings + 1).clamp(min=0)
        return torch.where(extra[..., None] > 0, learned[extra], own)

    def weighted(self, states: Tensor, scales: Tensor, mode: str) -> Tensor:
        """States (p, n, width) scaled by the weights (p, n) of their pieces, as ``mode`` says."""
        if mode == "mean":
            scaled = states * scales[..., None]
            before, after = (
                states.mean(dim=(1, 2), keepdim=True),
                scaled.mean(dim=(1, 2), keepdim=True),
            )
            return torch.where(
                (scales != 1).any(dim=1)[:, None, None] & (after != 0),
                scaled * (before / after),
                states,
            )
        empty, _ = self.states(torch.tensor([self.frame.page([]).ids]))
        return empty + (states - empty) * scales[..., None]
