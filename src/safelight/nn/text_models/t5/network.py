"""The encoder of T5 v1.1 (arXiv 1910.10683, 2002.05202).

Relative positions enter as a bias of the attention scores; MLPs are gated; layers have no biases.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.attention import RMSNorm
from safelight.nn.text_models.t5.config import Config


class T5(nn.Module):
    """Embedded tokens (b, n, width) → their states; attention includes padding.

    With fp16 weights the residual stream and the last layer of each MLP are computed in fp32: in
    the large encoders they exceed 65,504, the largest fp16 number.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.relative_positions = nn.Embedding(config.buckets, config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width)

    def forward(
        self, x: Tensor, skip: int = 0, full: bool = False, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        dtype, bias = x.dtype, self.bias(x.shape[1])
        x = x.float() if dtype == torch.float16 else x
        kept = len(self.blocks) - skip
        for block in self.blocks[:kept]:
            x = block(x, bias)
        states = x
        for block in self.blocks[kept:] if full else ():
            x = block(x, bias)
        return states, self.norm(x).to(dtype) if full else None

    def project(self, state: Tensor) -> Tensor:
        raise BadInput("a T5 encoder makes no vector; take it from a CLIP text encoder.")

    def bias(self, n: int) -> Tensor:
        """The bias of the attention scores of each pair of tokens: (1, heads, n, n)."""
        positions = torch.arange(n, device=self.relative_positions.weight.device)
        buckets = bucket(
            positions[None, :] - positions[:, None], self.config.buckets, self.config.max_distance
        )  # (n, n)
        bias: Tensor = self.relative_positions(buckets)
        return bias.permute(2, 0, 1)[None]


def bucket(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """The bucket of each signed distance: exact for short ones, logarithmic for long ones."""
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    scale = (half - exact) / math.log(max_distance / exact)
    shared = exact + ((size.clamp(min=1).float() / exact).log() * scale).long()
    return half * (distance > 0) + torch.where(size < exact, size, shared.clamp(max=half - 1))


class Block(nn.Module):
    """Pre-norm attention with unscaled scores, and gated MLP, (b, n, width) → (b, n, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm1 = RMSNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.width, bias=False)
        self.norm2 = RMSNorm(config.width)
        self.fc1 = nn.Linear(
            config.width, 2 * config.hidden, bias=False
        )  # the gate, then the value
        self.fc2 = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        dtype = self.qkv.weight.dtype
        qkv = self.qkv(self.norm1(x).to(dtype)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (b, heads, n, d) each
        mixed = F.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, value = self.fc1(self.norm2(x).to(dtype)).to(x.dtype).chunk(2, dim=-1)
        return x + F.linear(F.gelu(gate, approximate="tanh") * value, self.fc2.weight.to(x.dtype))
