"""Attention over the places of an image, as U-Nets have it: transformers between convolutions
(Rombach et al., arXiv 2112.10752, appendix E.2.1), and the plain attention before them (Dhariwal &
Nichol, arXiv 2105.05233)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from safelight.nn.attention import Context, CrossAttention, SelfAttention, attend
from safelight.nn.norms import GroupNorm

How = Literal["whole", "skipped", "alone"]
"""A layer runs as it is, is skipped, or lets every position attend only to itself."""
Contexts = tuple[tuple[Context, ...], ...]
"""The contexts of each cross-attention of a layer, in order: the text and further streams, or
none."""


class Transformer(nn.Module):
    """(b, width, h, w) → the same: ``depth`` blocks over all places, beside a skip.

    The context is ``text_width`` wide; with ``text_only`` the first attention of each block attends
    to it too, instead of to the other positions.
    """

    def __init__(
        self, width: int, depth: int, heads: int, text_width: int, text_only: bool, groups: int
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, 1e-6)
        self.enter = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, text_width, text_only) for _ in range(depth)
        )
        self.leave = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Contexts, how: How) -> Tensor:
        y = self.enter(places(self.norm(x)))  # (b, h·w, width)
        each = len(context) // len(self.blocks)
        for number, block in enumerate(self.blocks):
            y = block(y, context[number * each : (number + 1) * each], how)
        return x + image(self.leave(y), x)


class TransformerBlock(nn.Module):
    """Attention to the other places, attention to the text, and a gated MLP."""

    def __init__(self, width: int, heads: int, text_width: int, text_only: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.text = CrossAttention(width, text_width, heads, qk_norm=False) if text_only else None
        self.attention = None if text_only else SelfAttention(width, heads, qk_norm=False)
        self.norm2 = nn.LayerNorm(width)
        self.cross = CrossAttention(width, text_width, heads, qk_norm=False)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = GatedMLP(width)

    def forward(self, x: Tensor, context: Contexts, how: How) -> Tensor:
        """``x`` (b, n, width) → the same."""
        if self.attention is not None:
            y = self.norm1(x)
            x = x + (own(self.attention, y) if how == "alone" else self.attention(y))
        elif self.text is not None and context[0]:
            x = x + self.text(self.norm1(x), *context[0][0], context[0][1:])
        if context[-1]:
            x = x + self.cross(self.norm2(x), *context[-1][0], context[-1][1:])
        return x + self.mlp(self.norm3(x))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """Linear, half of it gated by the GELU of the other half, linear (GEGLU, arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 8 * width)
        self.leave = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.enter(x).chunk(2, dim=-1)
        return self.leave(value * F.gelu(gate))  # type: ignore[no-any-return]


class PlainAttention(nn.Module):
    """(b, width, h, w) → the same: attention to the other places, beside a skip. ``quick`` as in
    ``SelfAttention``."""

    quick = False

    def __init__(self, width: int, heads: int, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(groups, width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.leave = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Contexts, how: How) -> Tensor:
        q, k, v = (
            self.qkv(places(self.norm(x))).unflatten(-1, (3, self.heads, -1)).unbind(2)
        )  # 3 × (b, n, heads, d)
        mixed = v.flatten(2) if how == "alone" else attend(q, k, v, None, self.quick)
        return x + image(self.leave(mixed), x)


def places(x: Tensor) -> Tensor:
    """(b, c, h, w) → (b, h·w, c): nothing moves where ``x`` is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def image(y: Tensor, like: Tensor) -> Tensor:
    """(b, h·w, c) → (b, c, h, w) of the size of ``like``, channels-last."""
    return y.reshape(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)


def own(attention: SelfAttention, x: Tensor) -> Tensor:
    """The attention of places that see only themselves: each takes its own value."""
    return attention.out(attention.qkv(x).chunk(3, dim=-1)[2])  # type: ignore[no-any-return]
