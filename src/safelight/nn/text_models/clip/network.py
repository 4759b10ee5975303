"""The text encoders of CLIP (arXiv 2103.00020) and OpenCLIP: a causal transformer."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.attention import attend
from safelight.nn.text_models.clip.config import Config


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x): the activation of the first CLIP networks."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class Clip(nn.Module):
    """Embedded tokens (b, n, width) → their states; n is at most ``length``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.01 * torch.randn(config.length, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.projection = (
            nn.Linear(config.width, config.projection, bias=False) if config.projection else None
        )
        self.temperature = nn.Parameter(torch.tensor(2.6593)) if config.temperature else None
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self, x: Tensor, skip: int = 0, full: bool = False, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        n = x.shape[1]
        x = x + self.positions[:n]  # (b, n, width)
        causal = torch.ones(1, n, n, dtype=torch.bool, device=x.device).tril()
        kept = len(self.blocks) - skip
        for block in self.blocks[:kept]:
            x = block(x, causal)
        states = x
        if not full:
            return states, None
        for block in self.blocks[kept:]:
            x = block(x, causal)
        return states, self.norm(x)

    def project(self, state: Tensor) -> Tensor:
        assert self.projection is not None, "this text encoder has no projection"
        vector: Tensor = self.projection(state)
        return vector


class Block(nn.Module):
    """Pre-norm attention and MLP, (b, n, width) → (b, n, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, config.width, eps=1e-5)
        self.heads, self.activation = config.heads, ACTIVATIONS[config.activation]
        self.norm1, self.norm2 = norm(), norm()
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        )  # 3 × (b, n, heads, d)
        x = x + self.out(attend(q, k, v, mask))
        change: Tensor = self.fc2(self.activation(self.fc1(self.norm2(x))))
        return x + change
