"""Norms of a transformer that are shifted and scaled by the embedding of time and conditions
(adaLN-zero, arXiv 2212.09748)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Modulation(nn.Module):
    """adaLN-zero: ``parts`` vectors from the embedding, (b, width) → (b, parts, width); all zero at
    first."""

    def __init__(self, width: int, parts: int, bias: bool = True) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width, bias)

    def forward(self, emb: Tensor) -> Tensor:
        vectors: Tensor = self.linear(emb).unflatten(-1, (self.parts, -1))
        return vectors


class Final(nn.Module):
    """The last modulated norm and the patches' values, (b, n, width) → (b, n, out); all zero at
    first."""

    def __init__(self, width: int, out: int, bias: bool = True) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2, bias)
        self.linear = nn.Linear(width, out, bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift, scale = self.modulation(emb).to(x.dtype).split(1, dim=1)
        answer: Tensor = self.linear(modulated(x, shift, scale))
        return answer


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm without weights of ``x`` (b, n, width), then scaled and shifted by (b, 1,
    width)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def init_adaln_zero(network: nn.Module) -> None:
    """Xavier for every linear layer, but zero for modulations and last layers: blocks begin as the
    identity."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, Modulation | Final):
            nn.init.zeros_(module.linear.weight)
