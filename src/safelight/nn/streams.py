"""A sequence in a block of a transformer, alone or among others that share its attention."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from safelight.nn.attention import Heads, attend
from safelight.nn.modulation import Modulation, modulated


class Stream(nn.Module):
    """What a sequence has of its own in a block: modulations, the ends of an attention, an MLP
    (DiT, MMDiT).

    ``parts`` are shift and scale before attention, its gate, shift, scale and gate of the MLP, and
    what a network adds; with two parts the sequence is only looked at. ``eps`` is that of the MLP's
    norm.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        parts: int = 6,
        qk_norm: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = Modulation(width, parts)
        self.attention = Heads(width, heads, qk_norm, asks=parts > 2)
        mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
        self.mlp = mlp if parts > 2 else None

    def forward(self, x: Tensor, emb: Tensor, mask: Tensor | None = None) -> Tensor:
        """The block of a sequence alone: ``x`` (b, n, width), ``emb`` (b, width) → (b, n,
        width)."""
        shift, scale, *scales = self.scales(emb, x.dtype)
        q, k, v = self.attention(modulated(x, shift, scale))
        return self.onward(x, attend(q, k, v, mask, self.attention.quick), scales)

    def scales(self, emb: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Shifts, scales and gates, (b, 1, width) each, as ``onward`` and the two norms before
        attention take them."""
        scales: tuple[Tensor, ...] = self.modulation(emb).to(dtype).split(1, dim=1)
        return scales

    def onward(
        self, x: Tensor, mixed: Tensor, scales: Sequence[Tensor], more: Tensor | None = None
    ) -> Tensor:
        """``x`` (b, n, width) with what attention ``mixed``, with ``more``, and through the MLP."""
        assert self.attention.out is not None
        assert self.mlp is not None
        gate, shift, scale, gate_mlp, *_ = scales
        x = torch.addcmul(x, gate, self.attention.out(mixed))
        x = x if more is None else x + more
        return torch.addcmul(x, gate_mlp, self.mlp(modulated(x, shift, scale, self.eps)))
