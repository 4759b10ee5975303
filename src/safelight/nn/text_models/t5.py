"""The encoder of T5 v1.1 (arXiv 1910.10683, 2002.05202): positions as a bias by distance, gated GELU, no biases."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.attention import RMSNorm


@dataclass(frozen=True)
class Config:
    """An encoder of ``depth`` blocks; the defaults are those of T5-XXL. ``head`` is the width of one head.

    Distances fall into ``buckets``, half of them each way; all beyond ``farthest`` share one.
    """

    length: ClassVar[int] = 0
    projection: ClassVar[int] = 0

    width: int = 4096
    depth: int = 24
    heads: int = 64
    head: int = 64
    hidden: int = 10_240
    vocabulary: int = 32_128
    buckets: int = 32
    farthest: int = 128

    def __post_init__(self) -> None:
        if (
            min(self.width, self.depth, self.heads, self.head, self.hidden, self.vocabulary) < 1
            or self.buckets < 4
        ):
            raise BadInput(f"a T5 encoder has at least one of each and 4 buckets, got {self}.")

    def build(self) -> "T5":
        """The encoder, freshly initialised."""
        return T5(self)


class T5(nn.Module):
    """Embedded pieces (b, n, width) → their states; every piece sees all others, those that pad as well.

    With weights in fp16 the sums along its depth and the last product of each MLP are fp32: in the large encoders they
    go beyond 65,504, where fp16 ends.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.distances = nn.Embedding(config.buckets, config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width)

    def forward(
        self, x: Tensor, skip: int = 0, whole: bool = False, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        kind, bias = x.dtype, self.bias(x.shape[1])
        x = x.float() if kind == torch.float16 else x
        kept = len(self.blocks) - skip
        for block in self.blocks[:kept]:
            x = block(x, bias)
        states = x
        for block in self.blocks[kept:] if whole else ():
            x = block(x, bias)
        return states, self.norm(x).to(kind) if whole else None

    def project(self, state: Tensor) -> Tensor:
        raise BadInput("a T5 encoder makes no vector of a text; take it from a CLIP tower.")

    def bias(self, n: int) -> Tensor:
        """What is added to the scores of each pair of pieces: (1, heads, n, n)."""
        where = torch.arange(n, device=self.distances.weight.device)
        buckets = bucket(
            where[None, :] - where[:, None], self.config.buckets, self.config.farthest
        )  # (n, n)
        bias: Tensor = self.distances(buckets)
        return bias.permute(2, 0, 1)[None]


def bucket(distance: Tensor, buckets: int, farthest: int) -> Tensor:
    """The bucket of each signed distance: near ones have one each, far ones share those of a logarithmic scale."""
    half = buckets // 2
    near = half // 2
    size = distance.abs()
    scale = (half - near) / math.log(farthest / near)
    far = near + ((size.clamp(min=1).float() / near).log() * scale).long()
    return half * (distance > 0) + torch.where(size < near, size, far.clamp(max=half - 1))


class Block(nn.Module):
    """Pre-norm attention, whose scores are not scaled, and gated MLP, (b, n, width) → (b, n, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        inner = config.heads * config.head
        self.heads = config.heads
        self.norm1 = RMSNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.width, bias=False)
        self.norm2 = RMSNorm(config.width)
        self.enter = nn.Linear(
            config.width, 2 * config.hidden, bias=False
        )  # what is gated by GELU, then the rest
        self.leave = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        kind = self.qkv.weight.dtype
        qkv = self.qkv(self.norm1(x).to(kind)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (b, heads, n, d) each
        mixed = F.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, value = self.enter(self.norm2(x).to(kind)).to(x.dtype).chunk(2, dim=-1)
        return x + F.linear(F.gelu(gate, approximate="tanh") * value, self.leave.weight.to(x.dtype))
