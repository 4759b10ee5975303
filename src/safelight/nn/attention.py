"""Multi-head attention, on itself and on another sequence."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.kernels.attention import attends, attention
from safelight.nn.positions import Rotation


class Context(NamedTuple):
    """The keys and values of cross-attention: ``keys`` and ``values`` (b, m, heads, d) and ``mask``
    (b, m), None where all count."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None


class SelfAttention(nn.Module):
    """Attention of every token to every token that ``mask`` allows: (b, n, width) → (b, n, width).

    ``qk_norm`` puts a layer norm on queries and keys (ViT-22B, arXiv 2302.05442), which keeps the
    softmax from saturating in low precision. ``quick`` lets the compiled kernel attend where it
    can.
    """

    quick = False

    def __init__(self, width: int, heads: int, qk_norm: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.LayerNorm(width // heads, eps=1e-6, bias=False) if qk_norm else None
        self.k_norm = nn.LayerNorm(width // heads, eps=1e-6, bias=False) if qk_norm else None
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """``mask`` is true for the tokens that may be looked at, (b, n), or looked at by each, (1
        or b, n, n)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # 3 × (b, n, heads, d)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotation(q), rotation(k)
        answer: Tensor = self.out(attend(q, k, v, mask, self.quick))
        return answer


class CrossAttention(nn.Module):
    """Attention of every token to a context of another width, whose keys and values can be
    projected once and kept.

    ``qk_norm`` as in ``SelfAttention``.
    """

    def __init__(self, width: int, source: int, heads: int, qk_norm: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(source, 2 * width, bias=False)
        self.q_norm = nn.LayerNorm(width // heads, eps=1e-6, bias=False) if qk_norm else None
        self.k_norm = nn.LayerNorm(width // heads, eps=1e-6, bias=False) if qk_norm else None
        self.out = nn.Linear(width, width)

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of ``source`` (b, m, source) → twice (b, m, heads, d)."""
        k, v = self.kv(source).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return k if self.k_norm is None else self.k_norm(k), v

    def forward(
        self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, further: Sequence[Context] = ()
    ) -> Tensor:
        """``x`` (b, n, width), ``k`` and ``v`` as ``project`` made them, ``mask`` (b, m) → (b, n,
        width).

        The results of attention to ``further`` contexts are added, each with a softmax of its own
        (IP-Adapter, arXiv 2308.06721, eq. 5).
        """
        q = self.q(x).unflatten(-1, (self.heads, -1))  # (b, n, heads, d)
        q = q if self.q_norm is None else self.q_norm(q)
        mixed = attend(q, k, v, mask)
        for source in further:
            mixed = mixed + attend(q, *source)
        answer: Tensor = self.out(mixed)
        return answer


class Heads(nn.Module):
    """The projections to queries, keys and values of one sequence, and its output projection, for
    an attention that several sequences share.

    ``qk_norm`` is a root mean square norm with weights on queries and keys. A sequence without
    queries (``asks`` false) is only attended to; the norm of its queries, which files hold, is then
    an unused buffer. ``quick`` as in SelfAttention.
    """

    quick = False

    def __init__(self, width: int, heads: int, qk_norm: bool = False, asks: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        q_norm = RMSNorm if asks else UnusedNorm
        self.q_norm = q_norm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width) if asks else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, n, width) → queries, keys and values, (b, n, heads, d) each."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.q_norm(q), self.k_norm(k), v


class RMSNorm(nn.RMSNorm):
    """x over its root mean square along the last axis, times a weight, in the precision of x (arXiv
    1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class UnusedNorm(nn.Module):
    """A norm's ``weight`` that files hold but no output depends on."""

    weight: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, quick: bool = False
) -> Tensor:
    """Softmax attention of (b, n, heads, d) on (b, m, heads, d), where ``mask`` (b, m) or (1 or b,
    n, m) is true → (b, n, heads · d). ``quick`` lets the compiled kernel do it where it can,
    without a mask."""
    if quick and mask is None and attends(q, k, v):
        return attention(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (b, heads, n or m, d)
    allowed = None if mask is None else mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    # Under autocast q and k may still be float32 here; the values say in what the products will be.
    training_in_bf16 = q.device.type == "cpu" and q.requires_grad and v.dtype == torch.bfloat16
    how = (
        attend_plainly if training_in_bf16 and k.shape[2] < 1024 else F.scaled_dot_product_attention
    )
    mixed: Tensor = how(q, k, v, allowed)  # (b, heads, n, d)
    return mixed.transpose(1, 2).flatten(2)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """Softmax attention in three plain lines. Trained in bf16 on a CPU they are faster than the
    fused kernel on short sequences: 3.2 to 3.7 times at 64 tokens, 1.9 at 256, no longer at 1024,
    and never in float32 (torch 2.13, AVX512-bf16)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (b, heads, n, m)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    mixed: Tensor = scores.softmax(dim=-1) @ v
    return mixed


def joint_mask(words: Tensor, n: int) -> Tensor | None:
    """The mask (b, m) of ``words`` with ``n`` patches behind it; None if all count, for kernels
    without one."""
    if not words.is_meta and not torch.compiler.is_compiling() and bool(words.all()):
        return None
    return F.pad(words, (0, n), value=True)


def self_only_mask(mask: Tensor | None, n: int, ahead: int, device: torch.device) -> Tensor:
    """The attention mask (1 or b, n, n) under which a patch attends only to itself and to the
    ``ahead`` text tokens before the patches; text tokens attend as before."""
    positions = torch.arange(n, device=device)
    sees = positions[:, None] == positions
    sees[:, :ahead] = True
    sees[:ahead] = True
    return sees[None] if mask is None else sees & mask[:, None]
