"""One text encoder as a conditioner uses it: its network, its tokenizer, and what it outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from safelight.config import Slot
from safelight.errors import BadInput
from safelight.nn.text_models import TextModelConfig, clip
from safelight.tokenization.chunks import (
    Chunk,
    ChunkFormat,
    Section,
    split_chunks,
    truncated_text,
)
from safelight.tokenization.tokenizers import Kind
from safelight.tokenization.vocabulary import TextTokenizer
from safelight.types.networks import Tokens

CHARACTERS_PER_TOKEN = 64  # at most; what lies beyond is never tokenised


@dataclass(frozen=True)
class EncoderConfig:
    """A network that reads at most ``max_chunks`` chunks of ``length`` tokens; the rest is cut off.

    Its tokens are the states before the last ``skip`` blocks (diffusers: ``clip_skip``), after the
    final ``norm`` or not. Encoders of one ``group`` are concatenated along features, groups along
    the sequence; None: their tokens are not used. ``pooled``: whether the normed state at the end
    of the text is a vector, and whether it is projected. ``padding``: with the end-of-text token
    (``end``), with id 0 (``zero``), or with the padding token, which is masked (``own``).
    ``missing``: the file lacks the network, and zeros are its tokens.
    """

    network: Annotated[TextModelConfig, Slot("nn.text_models")] = field(default_factory=clip.Config)
    tokenizer: Kind = "clip"
    length: int = 77
    max_chunks: int = 8
    padding: Literal["end", "zero", "own"] = "end"
    skip: int = 0
    norm: bool = True
    group: int | None = 0
    pooled: Literal["none", "plain", "projected"] = "none"
    missing: bool = False

    def __post_init__(self) -> None:
        if self.network.length and self.length > self.network.length:
            raise BadInput(
                f"a length of {self.length} tokens is more than the {self.network.length} that "
                "the network can read."
            )
        if self.length < 3 or self.max_chunks < 1 or not 0 <= self.skip < self.network.depth:
            raise BadInput(
                f"wanted a length of 3 or more, 1 chunk or more and a skip within "
                f"{self.network.depth} blocks, got {self.length}, {self.max_chunks} and "
                f"{self.skip}."
            )
        if self.pooled == "projected" and not self.network.projection:
            raise BadInput(
                "a projected vector needs a text encoder with a projection; this one has none."
            )
        if self.padding == "end" and self.tokenizer == "ids":
            raise BadInput("token ids have no end-of-text token: set padding to zero or own.")
        if self.pooled != "none" and (self.tokenizer != "clip" or self.missing):
            raise BadInput("a vector is pooled from a CLIP text encoder that is not missing.")


class PromptEncoder(nn.Module):
    """Weighted texts → the tokens and the pooled vector of one text encoder."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = TextTokenizer(config.tokenizer, config.network.vocabulary)
        self.network = None if config.missing else config.network.build()
        self.embeddings: dict[str, Tensor] = {}  # of textual inversion, by name in lower case

    @property
    def width(self) -> int:
        """How wide its states are."""
        return self.config.network.width

    @property
    def chunk_format(self) -> ChunkFormat:
        """What the chunks of this encoder are made of."""
        tokenizer = self.tokenizer
        if self.config.missing:
            return ChunkFormat(self.config.length, (), (0,), 0)
        pad_id = {"end": tokenizer.eos_id, "zero": 0, "own": tokenizer.pad_id}[self.config.padding]
        return ChunkFormat(
            self.config.length, tokenizer.prefix, tokenizer.suffix, pad_id, tokenizer.pad_left
        )

    def chunks(self, sections: Sequence[Section]) -> list[Chunk]:
        """A weighted text as the chunks that this encoder reads."""
        if self.config.missing:
            return [self.chunk_format.chunk([])]
        return split_chunks(
            self._shortened(sections),
            self.chunk_format,
            self.config.max_chunks,
            self.tokenizer.token_ids,
            self._embedding_ids(),
        )

    def truncated_text(self, sections: Sequence[Section]) -> str:
        """The end of a weighted text that does not fit into the chunks of this encoder."""
        if self.config.missing:
            return ""
        rest = truncated_text(
            self._shortened(sections),
            self.chunk_format,
            self.config.max_chunks,
            self.tokenizer.token_ids,
            self._embedding_ids(),
            self.tokenizer.text_after,
        )
        return rest + "".join(
            text[self._max_characters :] for section in sections for text, _ in section
        )

    @property
    def _max_characters(self) -> int:
        return CHARACTERS_PER_TOKEN * self.config.max_chunks * self.config.length

    def _shortened(self, sections: Sequence[Section]) -> list[Section]:
        return [
            [(text[: self._max_characters], weight) for text, weight in section]
            for section in sections
        ]

    def _embedding_ids(self) -> dict[str, Sequence[int]]:
        """The ids of textual-inversion embeddings; they follow the vocabulary."""
        ids: dict[str, Sequence[int]] = {}
        first = self.config.network.vocabulary
        for name, vectors in self.embeddings.items():
            ids[name] = range(first, first + len(vectors))
            first += len(vectors)
        return ids

    def encode(
        self, texts: Sequence[Sequence[Chunk]], emphases: Sequence[str]
    ) -> tuple[Tokens, Tensor | None]:
        """The chunks of each text → its tokens (b, n, width) and the vector of its first chunk.

        Chunks follow each other along the sequence. ``emphases``: for each text what weights do.
        """
        longest = max(map(len, texts), default=1)
        present = torch.tensor(
            [[number < len(text) for number in range(longest)] for text in texts]
        )  # (b, chunks)
        ids = torch.tensor([chunk.ids for text in texts for chunk in text])
        weights = torch.tensor([chunk.weights for text in texts for chunk in text])
        states, vector = self.states(ids)
        present = present.to(states.device)
        for emphasis in sorted(set(emphases) - {"none"}):
            chosen = torch.tensor(
                [emphasis == mode for mode, text in zip(emphases, texts, strict=True) for _ in text]
            )
            weighted = self.apply_weights(states, weights.to(states), emphasis)
            states = torch.where(chosen.to(states.device)[:, None, None], weighted, states)
        values = states.new_zeros(*present.shape, *states.shape[1:])
        values[present] = states
        mask = present[:, :, None].expand(-1, -1, self.config.length)
        tokens = Tokens(values.flatten(1, 2), mask.flatten(1))
        if vector is None:
            return tokens, None
        first = present.cumsum(dim=1)[present] == 1
        return tokens, vector[first.to(vector.device)]

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ids (c, n) → states (c, n, width) and, if pooled, vectors (c, d)."""
        config = self.config
        if self.network is None:
            return torch.zeros(*ids.shape, self.width), None
        mask = ids != self.tokenizer.pad_id if config.padding == "own" else None
        pooled = config.pooled != "none"
        states, last = self.network(self.embed(ids), config.skip, pooled, mask)
        if config.norm:
            states = last if config.skip == 0 and last is not None else self.network.norm(states)
        if last is None:
            return states, None
        ends = ids.eq(self.tokenizer.eos_id).int().argmax(dim=1).to(last.device)
        vector = last[torch.arange(len(ids), device=last.device), ends]  # (c, width)
        return states, self.network.project(vector) if config.pooled == "projected" else vector

    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings of ids (c, n), textual-inversion embeddings included: (c, n, width)."""
        assert self.network is not None
        table = self.network.embedding
        ids = ids.to(table.weight.device)
        embedded: Tensor = table(ids.clamp(max=table.num_embeddings - 1))
        if not self.embeddings:
            return embedded
        added = torch.cat(
            [
                embedded.new_zeros(1, self.width),
                *(vectors.to(embedded) for vectors in self.embeddings.values()),
            ]
        )
        index = (ids - table.num_embeddings + 1).clamp(min=0)
        return torch.where(index[..., None] > 0, added[index], embedded)

    def apply_weights(self, states: Tensor, weights: Tensor, emphasis: str) -> Tensor:
        """States (c, n, width) scaled by the weights (c, n) of their tokens.

        ``mean`` restores the mean of each chunk, as the web UI does; ``empty`` scales the distance
        from the states of the empty text.
        """
        if emphasis == "mean":
            scaled = states * weights[..., None]
            before, after = (values.mean(dim=(1, 2), keepdim=True) for values in (states, scaled))
            weighted = (weights != 1).any(dim=1)[:, None, None] & (after != 0)
            return torch.where(weighted, scaled * (before / after), states)
        empty, _ = self.states(torch.tensor([self.chunk_format.chunk([]).ids]))
        return empty + (states - empty) * weights[..., None]
