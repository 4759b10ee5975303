"""What was seen of pictures → tokens to attend to: the ways of IP-Adapter (arXiv 2308.06721) and its descendants.

A picture is ``seen`` as its vector (CLIP's), as the states of its patches (CLIP's, before the last block), or as the
vector of a face in it. Each way takes (b, k, …) of k pictures a prompt, by these names, and makes tokens, (b, k, n,
text_width).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.attention import attend

Sight = Literal["vector", "states", "face"]
"""How a picture is seen: a vector (d), states (n, d), or a vector of its face (d)."""
Seen = Mapping[Sight, Tensor]


class Kind(Protocol):
    """The configuration of a way: how wide that is which it reads, and the tokens that it makes."""

    @property
    def reads(self) -> Mapping[Sight, int]: ...

    @property
    def text_width(self) -> int: ...

    def build(self) -> nn.Module: ...


@dataclass(frozen=True)
class Single:
    """A vector, ``width`` wide, becomes ``tokens`` at once: the first IP-Adapter, and FLUX's."""

    width: int = 1024
    tokens: int = 4
    text_width: int = 768

    @property
    def reads(self) -> Mapping[Sight, int]:
        return {"vector": self.width}

    def build(self) -> "FromVector":
        return FromVector(self)


@dataclass(frozen=True)
class Each:
    """A vector becomes ``tokens`` by two layers: that of a face (FaceID), or each of the picture's states (the
    full IP-Adapter)."""

    of: Literal["states", "face"] = "face"
    width: int = 512
    hidden: int = 1024
    tokens: int = 4
    text_width: int = 768

    @property
    def reads(self) -> Mapping[Sight, int]:
        reads: dict[Sight, int] = {self.of: self.width}
        return reads

    def build(self) -> "FromEach":
        return FromEach(self)


@dataclass(frozen=True)
class Resampler:
    """Queries, ``inner`` wide, ask the picture's states, ``depth`` times (arXiv 2103.03206): IP-Adapter Plus.

    ``face``: the width of the vector of a face that the queries are made of, through ``face_hidden`` (FaceID Plus); 0:
    they are learned. ``shortcut``: they are added to what becomes of them, as in its second version.
    """

    width: int = 1280
    inner: int = 768
    heads: int = 12
    head: int = 64
    depth: int = 4
    hidden: int = 3072
    tokens: int = 16
    text_width: int = 768
    face: int = 0
    face_hidden: int = 0
    shortcut: bool = False

    def __post_init__(self) -> None:
        if self.shortcut and (not self.face or self.inner != self.text_width):
            raise BadInput(
                "a shortcut leads from the face to the tokens: it wants a face, and queries as wide as text."
            )

    @property
    def reads(self) -> Mapping[Sight, int]:
        reads: dict[Sight, int] = {"states": self.width}
        return reads | ({"face": self.face} if self.face else {})

    def build(self) -> "FromStates":
        return FromStates(self)


class FromVector(nn.Module):
    """See ``Single``."""

    def __init__(self, config: Single) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.project = nn.Linear(config.width, config.tokens * config.text_width)
        self.norm = nn.LayerNorm(config.text_width)

    def forward(self, seen: Seen) -> Tensor:
        tokens: Tensor = self.norm(self.project(seen["vector"]).unflatten(-1, (self.tokens, -1)))
        return tokens


class FromEach(nn.Module):
    """See ``Each``."""

    def __init__(self, config: Each) -> None:
        super().__init__()
        self.of, self.tokens = config.of, config.tokens
        self.enter = nn.Linear(config.width, config.hidden)
        self.leave = nn.Linear(config.hidden, config.tokens * config.text_width)
        self.norm = nn.LayerNorm(config.text_width)

    def forward(self, seen: Seen) -> Tensor:
        made = self.leave(F.gelu(self.enter(seen[self.of]))).unflatten(-1, (self.tokens, -1))
        tokens: Tensor = self.norm(
            made
        )  # (b, k, tokens, text_width), of states (b, k, n, tokens, text_width)
        return tokens.flatten(2, -2)


class FromStates(nn.Module):
    """See ``Resampler``."""

    def __init__(self, config: Resampler) -> None:
        super().__init__()
        self.tokens, self.shortcut = config.tokens, config.shortcut
        width = config.inner
        self.queries = (
            None if config.face else nn.Parameter(torch.randn(1, config.tokens, width) / width**0.5)
        )
        self.face = Queries(config) if config.face else None
        self.enter = nn.Linear(config.width, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.leave = nn.Linear(width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width)

    def forward(self, seen: Seen) -> Tensor:
        states = seen["states"]
        k = states.shape[1]
        source = self.enter(states.flatten(0, 1))  # (b · k, n, inner)
        if self.face is not None:
            queries: Tensor = self.face(seen["face"].flatten(0, 1))
        else:
            assert self.queries is not None
            queries = self.queries.expand(len(source), -1, -1)  # (b · k, tokens, inner)
        x = queries
        for block in self.blocks:
            x = block(x, source)
        tokens: Tensor = self.norm(self.leave(x))
        tokens = queries + tokens if self.shortcut else tokens
        return tokens.reshape(-1, k, *tokens.shape[1:])


class Queries(nn.Module):
    """What asks, made of the vector of a face: (b, face) → (b, tokens, inner)."""

    def __init__(self, config: Resampler) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.enter = nn.Linear(config.face, config.face_hidden)
        self.leave = nn.Linear(config.face_hidden, config.tokens * config.inner)
        self.norm = nn.LayerNorm(config.inner)

    def forward(self, face: Tensor) -> Tensor:
        queries: Tensor = self.norm(
            self.leave(F.gelu(self.enter(face))).unflatten(-1, (self.tokens, -1))
        )
        return queries


class Block(nn.Module):
    """Queries ask the source and themselves, then pass an MLP; nothing in it has a bias but the norms."""

    def __init__(self, config: Resampler) -> None:
        super().__init__()
        width, attended = config.inner, config.heads * config.head
        self.heads = config.heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.q = nn.Linear(width, attended, bias=False)
        self.kv = nn.Linear(width, 2 * attended, bias=False)
        self.out = nn.Linear(attended, width, bias=False)
        self.enter = nn.Linear(width, config.hidden, bias=False)
        self.leave = nn.Linear(config.hidden, width, bias=False)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """``x`` (b, tokens, inner), ``source`` (b, n, inner) → as ``x``."""
        asking = self.norm2(x)
        asked = torch.cat([self.norm1(source), asking], dim=1)
        q = self.q(asking).unflatten(-1, (self.heads, -1))  # (b, tokens, heads, d)
        k, v = (
            self.kv(asked).unflatten(-1, (2, self.heads, -1)).unbind(2)
        )  # (b, n + tokens, heads, d)
        x = x + self.out(attend(q, k, v))
        change: Tensor = self.leave(F.gelu(self.enter(self.norm3(x))))
        return x + change
