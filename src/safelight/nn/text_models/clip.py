"""CLIP's text tower (arXiv 2103.00020) and OpenCLIP's: a causal transformer over at most 77 pieces."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.nn.attention import attend


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x): the activation of the first CLIP networks."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True)
class Config:
    """A tower of ``depth`` blocks; the defaults are those of CLIP ViT-L/14.

    ``projection`` is the width of the space that it shares with pictures, 0 if the file has no way into it.
    ``temperature`` says whether the contrastive one is stored; nothing here uses it.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    vocabulary: int = 49_408
    length: int = 77
    projection: int = 0
    temperature: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise BadInput(
                f"a width of {self.width} cannot be shared out among {self.heads} heads; say how many it has."
            )

    def build(self) -> "Clip":
        """The tower, freshly initialised."""
        return Clip(self)


class Clip(nn.Module):
    """Embedded pieces (b, n, width) → their states; n is at most ``length``."""

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
        self, x: Tensor, skip: int = 0, whole: bool = False, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        n = x.shape[1]
        x = x + self.positions[:n]  # (b, n, width)
        seen = torch.ones(1, n, n, dtype=torch.bool, device=x.device).tril()
        kept = len(self.blocks) - skip
        for block in self.blocks[:kept]:
            x = block(x, seen)
        states = x
        if not whole:
            return states, None
        for block in self.blocks[kept:]:
            x = block(x, seen)
        return states, self.norm(x)

    def project(self, state: Tensor) -> Tensor:
        assert self.projection is not None, "this tower has no projection"
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
        self.enter = nn.Linear(config.width, config.hidden)
        self.leave = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        q, k, v = (
            self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        )  # 3 × (b, n, heads, d)
        x = x + self.out(attend(q, k, v, seen))
        change: Tensor = self.leave(self.activation(self.enter(self.norm2(x))))
        return x + change
