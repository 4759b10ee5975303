"""The blocks of the FLUX transformers: those of two sequences and those of one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.denoisers.flux.config import Config
from safelight.nn.attention import RMSNorm, Source, attend
from safelight.nn.modulation import Modulation, modulated
from safelight.nn.positions import PairRotation


class Double(nn.Module):
    """A block in which picture and text have weights of their own and one attention."""

    quick = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.image, self.text = Stream(config), Stream(config)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        told_image: Tensor,
        told_text: Tensor,
        rope: PairRotation,
        mask: Tensor | None,
        further: Sequence[Source] = (),
    ) -> tuple[Tensor, Tensor]:
        """``image`` (b, n, width), ``text`` (b, words, width), what each is told → both. What the
        patches, wherever they lie, ask of ``further`` sources is added to them at the end."""
        of_image, of_text = self.image.parts(image, told_image), self.text.parts(text, told_text)
        own = self.image.ask(image, *of_image[:2])
        context = zip(self.text.ask(text, *of_text[:2]), own, strict=True)
        q, k, v = (torch.cat(pair, dim=1) for pair in context)  # (b, words + n, heads, d)
        mixed = attend(rope(q), rope(k), v, mask, self.quick)
        ahead = text.shape[1]
        image = self.image.take(image, mixed[:, ahead:], *of_image[2:])
        for source in further:
            image = image + attend(own[0], *source)
        return image, self.text.take(text, mixed[:, :ahead], *of_text[2:])


class Stream(nn.Module):
    """What a double block does to one of its two sequences, before and after they meet."""

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

    def parts(self, x: Tensor, told: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of attention, then of the MLP, (b, 1, width) each."""
        told = (told if self.modulation is None else self.modulation(told)).to(x.dtype)
        shift, scale, gate, *mlp = told.split(1, dim=1)
        return (shift, scale, gate, *mlp)

    def ask(self, x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (b, n, heads, d) each."""
        q, k, v = self.qkv(modulated(x, shift, scale)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.q_norm(q), self.k_norm(k), v

    def take(
        self, x: Tensor, mixed: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, last: Tensor
    ) -> Tensor:
        """``x`` (b, n, width) with what attention gave, then the MLP."""
        x = torch.addcmul(x, gate, self.out(mixed))
        return torch.addcmul(
            x, last, self.leave(self.activate(self.enter(modulated(x, shift, scale))))
        )


class Single(nn.Module):
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

    def forward(self, x: Tensor, told: Tensor, rope: PairRotation, mask: Tensor | None) -> Tensor:
        """``x`` (b, n, width) → the same."""
        told = (told if self.modulation is None else self.modulation(told)).to(x.dtype)
        shift, scale, gate = told.split(1, dim=1)
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
