"""The text transformer of latent diffusion (arXiv 2112.10752, appendix E.2.1).

Every token attends to all others, padding included. It was trained with its denoiser, on texts in
BERT's vocabulary or on bounding boxes.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.attention import attend
from safelight.nn.text_models.bert.config import Config


class Bert(nn.Module):
    """Embedded tokens (b, n, width) → their states; n is at most ``length``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.length, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.logits = nn.Linear(config.width, config.vocabulary) if config.logits else None
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self, x: Tensor, skip: int = 0, full: bool = False, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        states = x = x + self.positions[: x.shape[1]]
        kept = len(self.blocks) - skip
        for number, block in enumerate(self.blocks if full else self.blocks[:kept]):
            x = block(x)
            states = x if number < kept else states
        return states, self.norm(x) if full else None

    def project(self, state: Tensor) -> Tensor:
        raise BadInput("this text encoder makes no vector; take it from a CLIP text encoder.")


class Block(nn.Module):
    """Pre-norm attention and MLP, (b, n, width) → (b, n, width).

    The heads together may be narrower than ``width``.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        norm, inner = partial(nn.LayerNorm, config.width), config.heads * config.head_width
        self.heads = config.heads
        self.norm1, self.norm2 = norm(), norm()
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.width)
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        )  # 3 × (b, n, heads, d)
        x = x + self.out(attend(q, k, v))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]
