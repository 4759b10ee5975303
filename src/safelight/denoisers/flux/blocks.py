"""The blocks of the FLUX transformers: those of two sequences and those of one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.denoisers.flux.config import Config
from safelight.nn.attention import Context, RMSNorm, attend
from safelight.nn.modulation import Modulation, modulated
from safelight.nn.positions import PairRotation


class DoubleStreamBlock(nn.Module):
    """A block in which picture and text have weights of their own and one attention."""

    quick = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.image, self.text = Stream(config), Stream(config)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        modulation_image: Tensor,
        modulation_text: Tensor,
        rope: PairRotation,
        mask: Tensor | None,
        further: Sequence[Context] = (),
    ) -> tuple[Tensor, Tensor]:
        """``image`` (b, n, width), ``text`` (b, words, width), the modulation of each → both. What
        the patches, wherever they lie, take from ``further`` contexts is added to them at the
        end."""
        of_image, of_text = (
            self.image.parts(image, modulation_image),
            self.text.parts(text, modulation_text),
        )
        own = self.image.project_qkv(image, *of_image[:2])
        context = zip(self.text.project_qkv(text, *of_text[:2]), own, strict=True)
        q, k, v = (torch.cat(pair, dim=1) for pair in context)  # (b, words + n, heads, d)
        mixed = attend(rope(q), rope(k), v, mask, self.quick)
        ahead = text.shape[1]
        image = self.image.after_attention(image, mixed[:, ahead:], *of_image[2:])
        for source in further:
            image = image + attend(own[0], *source)
        return image, self.text.after_attention(text, mixed[:, :ahead], *of_text[2:])


class Stream(nn.Module):
    """What a double block does to one of its two sequences, before and after their joint
    attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        bias, width = config.generation == 1, config.width
        self.heads = config.heads
        self.modulation = Modulation(width, 6) if config.generation == 1 else None
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.q_norm = RMSNorm(width // config.heads)
        self.k_norm = RMSNorm(width // config.heads)
        self.out = nn.Linear(width, width, bias)
        self.enter = nn.Linear(width, config.hidden * config.generation, bias)
        self.leave = nn.Linear(config.hidden, width, bias)
        self.activate = activation(config)

    def parts(self, x: Tensor, emb: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of attention, then of the MLP, (b, 1, width) each."""
        emb = (emb if self.modulation is None else self.modulation(emb)).to(x.dtype)
        shift, scale, gate, *mlp = emb.split(1, dim=1)
        return (shift, scale, gate, *mlp)

    def project_qkv(self, x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (b, n, heads, d) each."""
        q, k, v = self.qkv(modulated(x, shift, scale)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.q_norm(q), self.k_norm(k), v

    def after_attention(
        self, x: Tensor, mixed: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, last: Tensor
    ) -> Tensor:
        """``x`` (b, n, width) with what attention gave, then the MLP."""
        x = torch.addcmul(x, gate, self.out(mixed))
        return torch.addcmul(
            x, last, self.leave(self.activate(self.enter(modulated(x, shift, scale))))
        )


class SingleStreamBlock(nn.Module):
    """A block of one sequence: attention and MLP at once, from one projection into one."""

    quick = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        bias, width = config.generation == 1, config.width
        self.heads, self.width = config.heads, width
        self.modulation = Modulation(width, 3) if config.generation == 1 else None
        self.enter = nn.Linear(width, 3 * width + config.hidden * config.generation, bias)
        self.q_norm = RMSNorm(width // config.heads)
        self.k_norm = RMSNorm(width // config.heads)
        self.leave = nn.Linear(width + config.hidden, width, bias)
        self.activate = activation(config)

    def forward(self, x: Tensor, emb: Tensor, rope: PairRotation, mask: Tensor | None) -> Tensor:
        """``x`` (b, n, width) → the same."""
        emb = (emb if self.modulation is None else self.modulation(emb)).to(x.dtype)
        shift, scale, gate = emb.split(1, dim=1)
        entered = self.enter(modulated(x, shift, scale))
        qkv, inner = entered.split([3 * self.width, entered.shape[-1] - 3 * self.width], dim=-1)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)  # (b, n, heads, d) each
        mixed = attend(rope(self.q_norm(q)), rope(self.k_norm(k)), v, mask, self.quick)
        return torch.addcmul(x, gate, self.leave(torch.cat([mixed, self.activate(inner)], dim=-1)))


def controlled(x: Tensor, residual: Sequence[Tensor], ahead: int) -> Tensor:
    """``x`` (b, n, width) with the one ``residual``, if any, added to as many tokens behind the
    first ``ahead``."""
    for one in residual:
        x = x + F.pad(one.to(x.dtype), (0, 0, ahead, x.shape[1] - ahead - one.shape[1]))
    return x


class Gated(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202): the first half, through SiLU, times the second."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return F.silu(first) * second


def activation(config: Config) -> nn.Module:
    """What stands between the layers of an MLP."""
    return nn.GELU("tanh") if config.generation == 1 else Gated()


def heard_by(width: int, out: int, bias: bool) -> nn.Sequential:
    """(b, width) → (b, out): how time, guidance and vector are embedded."""
    return nn.Sequential(nn.Linear(width, out, bias), nn.SiLU(), nn.Linear(out, out, bias))
