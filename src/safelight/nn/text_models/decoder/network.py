"""The first blocks of a language model: Mistral Small 3, or Qwen 3 (arXiv 2505.09388), for FLUX.2.

RMSNorm, grouped-query attention, rotary position embedding and SwiGLU. The outputs of several
blocks are concatenated along features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.attention import attend
from safelight.nn.positions import Rotation, rotation
from safelight.nn.text_models.decoder.config import Config


class Decoder(nn.Module):
    """Embedded tokens (b, n, width) → the chosen states (b, n, output_layers · width).

    Attention is causal, and padding is masked. ``norm`` is the identity: these states are not
    normed.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.Identity()
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self, x: Tensor, skip: int = 0, full: bool = False, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        n = x.shape[1]
        rope = rotation(
            torch.arange(n, device=x.device)[:, None],
            self.config.head_width,
            self.config.rope_theta,
        )
        causal = torch.ones(1, n, n, dtype=torch.bool, device=x.device).tril()
        visible = causal if mask is None else causal & mask[:, None].to(x.device)
        states = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x, rope, visible)
            if number in self.config.output_layers:
                states.append(x)
        return torch.cat(states, dim=-1), None

    def project(self, state: Tensor) -> Tensor:
        raise BadInput("a language model makes no vector; take it from a CLIP text encoder.")


class Block(nn.Module):
    """Pre-norm attention and gated MLP, without biases, (b, n, width) → (b, n, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        query_width, kv_width = (
            config.heads * config.head_width,
            config.kv_heads * config.head_width,
        )
        self.norm1 = nn.RMSNorm(config.width, config.eps)
        self.qkv = nn.Linear(config.width, query_width + 2 * kv_width, bias=False)
        self.q_norm = nn.RMSNorm(config.head_width, config.eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_width, config.eps) if config.qk_norm else nn.Identity()
        self.out = nn.Linear(query_width, config.width, bias=False)
        self.norm2 = nn.RMSNorm(config.width, config.eps)
        self.fc1 = nn.Linear(
            config.width, 2 * config.hidden, bias=False
        )  # the gate, then the value
        self.fc2 = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, rope: Rotation, mask: Tensor) -> Tensor:
        heads, kv_heads = self.config.heads, self.config.kv_heads
        q, k, v = (
            self.qkv(self.norm1(x))
            .unflatten(-1, (-1, self.config.head_width))
            .split([heads, kv_heads, kv_heads], dim=2)
        )
        q, k = rope(self.q_norm(q)), rope(self.k_norm(k))  # (b, n, heads or kv_heads, d)
        k, v = (tensor.repeat_interleave(heads // kv_heads, dim=2) for tensor in (k, v))
        x = x + self.out(attend(q, k, v, mask))
        gate, value = self.fc1(self.norm2(x)).chunk(2, dim=-1)
        change: Tensor = self.fc2(F.silu(gate) * value)
        return x + change
