"""Numbers as vectors: the embedding of time."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal(time: Tensor, width: int, inclusive: bool = False) -> Tensor:
    """Cosines, then sines, of ``time`` (b,) at ``width // 2`` frequencies from 1 down to 1/10000 →
    (b, width).

    The slowest is one step short of 1/10000, or just that if ``inclusive``, as some of diffusers'
    networks have it.

    Always in float32, whatever the precision around it: bfloat16 cannot tell neighbouring times
    apart. Times are expected on the scale of 0 … 1000. Source: DDPM (arXiv 2006.11239), in the
    layout of arXiv 2212.09748.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angles = time.float()[:, None] * torch.exp(steps * (-math.log(10_000) / (half - inclusive)))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Time (b,) → (b, width): sinusoids, to which ``extra`` (b, frequencies) is added, then
    Linear, SiLU, Linear."""

    def __init__(self, width: int, frequencies: int = 256, inclusive: bool = False) -> None:
        super().__init__()
        self.frequencies, self.inclusive = frequencies, inclusive
        self.first = nn.Linear(frequencies, width)
        self.second = nn.Linear(width, width)

    def forward(self, time: Tensor, extra: Tensor | None = None) -> Tensor:
        waves = sinusoidal(time, self.frequencies, self.inclusive).to(self.first.weight.dtype)
        embedded: Tensor = self.second(
            F.silu(self.first(waves if extra is None else waves + extra))
        )
        return embedded
