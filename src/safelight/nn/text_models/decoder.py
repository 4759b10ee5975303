"""The first blocks of a language model, of which several states side by side are what FLUX.2 reads: Mistral Small 3's,
or Qwen 3's (arXiv 2505.09388). Root mean square norms, keys shared by several queries, rotary places, SwiGLU."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.attention import attend
from safelight.nn.positions import Rotation, rotation


@dataclass(frozen=True)
class Config:
    """Of Mistral Small 3 what FLUX.2 dev uses of it. The states after the blocks ``taps``, counted from 1, are what is
    read; there are no blocks behind the last of them. ``shared``: heads of keys and values, fewer than those of the
    queries. ``base`` is the inverse of the slowest frequency of places, nearly.
    """

    length: ClassVar[int] = 0
    projection: ClassVar[int] = 0

    width: int = 5120
    taps: tuple[int, ...] = (10, 20, 30)
    heads: int = 32
    shared: int = 8
    head: int = 128
    hidden: int = 32_768
    vocabulary: int = 131_072
    qk_norm: bool = False
    base: float = 1e9
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if not self.taps or min(self.taps) < 1 or list(self.taps) != sorted(set(self.taps)):
            raise BadInput(f"taps must be numbers of blocks, from 1 and rising, not {self.taps}.")
        if (
            min(self.width, self.shared, self.head, self.hidden) < 1
            or self.head % 2
            or self.heads % self.shared
        ):
            raise BadInput(
                f"heads must be an even number of channels, and shared by as many queries each, got {self}."
            )

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return self.taps[-1]

    def build(self) -> "Decoder":
        """The blocks, freshly initialised."""
        return Decoder(self)


class Decoder(nn.Module):
    """Embedded pieces (b, n, width) → their states side by side (b, n, taps · width).

    A piece sees those before it; none sees one that does not count. ``norm`` does nothing: these states are not normed.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.Identity()
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self, x: Tensor, skip: int = 0, whole: bool = False, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        n = x.shape[1]
        turn = rotation(
            torch.arange(n, device=x.device)[:, None], self.config.head, self.config.base
        )
        seen = torch.ones(1, n, n, dtype=torch.bool, device=x.device).tril()
        seen = seen if counts is None else seen & counts[:, None].to(x.device)
        states = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x, turn, seen)
            if number in self.config.taps:
                states.append(x)
        return torch.cat(states, dim=-1), None

    def project(self, state: Tensor) -> Tensor:
        raise BadInput("a language model makes no vector of a text; take it from a CLIP tower.")


class Block(nn.Module):
    """Pre-norm attention and gated MLP, without biases, (b, n, width) → (b, n, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        wide, narrow = config.heads * config.head, config.shared * config.head
        self.norm1 = nn.RMSNorm(config.width, config.eps)
        self.qkv = nn.Linear(config.width, wide + 2 * narrow, bias=False)
        self.q_norm = nn.RMSNorm(config.head, config.eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head, config.eps) if config.qk_norm else nn.Identity()
        self.out = nn.Linear(wide, config.width, bias=False)
        self.norm2 = nn.RMSNorm(config.width, config.eps)
        self.enter = nn.Linear(
            config.width, 2 * config.hidden, bias=False
        )  # what gates, through SiLU, then the rest
        self.leave = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, turn: Rotation, seen: Tensor) -> Tensor:
        heads, shared = self.config.heads, self.config.shared
        q, k, v = (
            self.qkv(self.norm1(x))
            .unflatten(-1, (-1, self.config.head))
            .split([heads, shared, shared], dim=2)
        )
        q, k = turn(self.q_norm(q)), turn(self.k_norm(k))  # (b, n, heads or shared, d)
        k, v = (one.repeat_interleave(heads // shared, dim=2) for one in (k, v))
        x = x + self.out(attend(q, k, v, seen))
        gate, value = self.enter(self.norm2(x)).chunk(2, dim=-1)
        change: Tensor = self.leave(F.silu(gate) * value)
        return x + change
