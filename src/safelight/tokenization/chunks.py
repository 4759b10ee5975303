"""Weighted texts as chunks: token ids of the fixed length that a text encoder reads."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from safelight.prompting.syntax import WeightedText

Section = Sequence[WeightedText]
"""Weighted texts that begin a chunk of their own."""


@dataclass(frozen=True)
class Chunk:
    """The token ids of one pass through a text encoder, with the weight of each.

    Special tokens and padding are included, with weight 1.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class ChunkFormat:
    """What a chunk is made of: its length, and the ids before and after the text.

    ``pad_id`` fills the rest, behind the suffix, or before everything if ``pad_left``.
    """

    length: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int
    pad_left: bool = False

    @property
    def capacity(self) -> int:
        """How many token ids of a text fit into one chunk."""
        return self.length - len(self.prefix) - len(self.suffix)

    def chunk(self, body: Sequence[tuple[int, float]]) -> Chunk:
        """The chunk of at most ``capacity`` ids, each with its weight."""
        prefix, suffix = (
            [(token, 1.0) for token in special] for special in (self.prefix, self.suffix)
        )
        padding = [(self.pad_id, 1.0)] * (self.capacity - len(body))
        content = [*prefix, *body, *suffix]
        items = padding + content if self.pad_left else content + padding
        ids, weights = zip(*items, strict=True)
        return Chunk(ids, weights)


class _Part(NamedTuple):
    """A text with its weight; the ids of an embedding, if it is the name of one."""

    text: str
    weight: float
    embedding: Sequence[int] | None
    begins_chunk: bool


class _Placed(NamedTuple):
    """Token ids that must not be separated, and the number of the chunk that they belong to.

    ``part`` and ``token`` say where they come from: which part, and which token of it.
    """

    chunk: int
    ids: Sequence[int]
    weight: float
    part: int
    token: int


def split_chunks(
    sections: Sequence[Section],
    chunk_format: ChunkFormat,
    max_chunks: int,
    token_ids: Callable[[str], list[int]],
    embeddings: Mapping[str, Sequence[int]],
) -> list[Chunk]:
    """At most ``max_chunks`` chunks; every section begins one. The rest is ``truncated_text``.

    ``embeddings``: names, in lower case, with ids of their own, which stay together in a chunk.
    """
    bodies: list[list[tuple[int, float]]] = []
    for placed in _place(_parts(sections, embeddings), chunk_format, token_ids):
        if placed.chunk >= max_chunks:
            break
        if placed.chunk == len(bodies):
            bodies.append([])
        bodies[placed.chunk] += [(token, placed.weight) for token in placed.ids]
    return [chunk_format.chunk(body) for body in bodies]


def truncated_text(
    sections: Sequence[Section],
    chunk_format: ChunkFormat,
    max_chunks: int,
    token_ids: Callable[[str], list[int]],
    embeddings: Mapping[str, Sequence[int]],
    text_after: Callable[[str, int], str],
) -> str:
    """The end of the text that does not fit into ``max_chunks`` chunks.

    ``text_after(text, n)`` returns what follows the first ``n`` tokens of a text.
    """
    parts = _parts(sections, embeddings)
    for placed in _place(parts, chunk_format, token_ids):
        if placed.chunk >= max_chunks:
            part = parts[placed.part]
            rest = part.text if part.embedding else text_after(part.text, placed.token)
            return rest + "".join(later.text for later in parts[placed.part + 1 :])
    return ""


def _place(
    parts: Sequence[_Part], chunk_format: ChunkFormat, token_ids: Callable[[str], list[int]]
) -> Iterator[_Placed]:
    """All tokens and embeddings in order, each with its chunk; sections begin with an empty one."""
    chunk, filled = -1, 0
    for number, part in enumerate(parts):
        if part.begins_chunk:
            chunk, filled = chunk + 1, 0
            yield _Placed(chunk, (), part.weight, number, 0)
        units: list[Sequence[int]]
        if part.embedding is None:
            units = [[token] for token in token_ids(part.text)]
        else:
            units = [part.embedding[: chunk_format.capacity]]
        for index, unit in enumerate(units):
            if filled + len(unit) > chunk_format.capacity:
                chunk, filled = chunk + 1, 0
            filled += len(unit)
            yield _Placed(chunk, unit, part.weight, number, index)


def _parts(sections: Sequence[Section], embeddings: Mapping[str, Sequence[int]]) -> Sequence[_Part]:
    """The texts, split where names of embeddings occur as whole words."""
    names = sorted(map(re.escape, embeddings), key=len, reverse=True)
    pattern = re.compile(
        rf"((?<!\w)(?:{'|'.join(names)})(?!\w))" if names else r"((?!))", re.IGNORECASE
    )
    return [
        _Part(part, weight, embeddings.get(part.lower()), first == second == 0)
        for section in sections
        for first, (text, weight) in enumerate(section)
        for second, part in enumerate(pattern.split(text))
    ]


def quote(text: str, max_length: int = 200) -> str:
    """A text in quotation marks; of a long one the beginning and its length."""
    begin = repr(" ".join(text[:max_length].split()))
    return begin + (f" … ({len(text)} characters)" if len(text) > max_length else "")
