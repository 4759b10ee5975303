"""The network of the U-Net."""

from collections.abc import Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from safelight.denoisers.unet.blocks import (
    Block,
    Layers,
    attention_plan,
    blocks,
    zero_init_branches,
)
from safelight.denoisers.unet.config import Config
from safelight.denoisers.unet.encoder import Encoder, prepare, scalar_names, takes
from safelight.errors import BadInput
from safelight.nn.conv_autoencoder import Up
from safelight.nn.norms import GroupNorm
from safelight.types.networks import Condition, Network
from safelight.types.tensors import Latents


class UNet(nn.Module):
    """Noisy latents (b, channels, h, w), time (b,) on the scale of 0 … 999 and a condition → an
    answer of that shape.

    It takes ``tokens`` if it has a text width, and ``streams`` that an adapter has projected for
    it; ``vector``, ``channels``, ``scalars["noise_level"]`` (0 … classes - 1) and
    ``scalars["guidance"]`` if they have a width; left out, the latter is 1: none. ``residuals``
    are, first, what is added to that which each part of the way down leaves for the way up, in
    order, beginning with the first convolution, and to the middle's result (ControlNet, arXiv
    2302.05543); then, or instead, what is added to the way down itself, one a level and perhaps one
    after the middle (T2I-Adapter, arXiv 2302.08453): behind a level's last attention, or, where it
    has none, behind its change of size. Any other way in, and sides that are no multiples of
    ``size_multiple``, are BadInput.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.size_multiple = 2 ** (len(config.levels) - 1)
        self.scalar_names = scalar_names(config)
        self.encoder = Encoder(config)
        left = self.encoder.skip_widths
        before = config.levels[-1].width
        parts: list[nn.Module] = []
        for number, level in reversed(list(enumerate(config.levels))):
            for block in range(config.blocks + 1):
                parts.append(Block(config, before + left.pop(), level.rising(block)))
                before = level.width
            if number:
                parts.append(
                    Block(config, before, level, "up") if config.residual_resize else Up(before)
                )
        self.up = nn.ModuleList(parts)
        self.norm = GroupNorm(config.norm.groups, before, config.norm.eps, silu=True)
        self.leave = nn.Conv2d(before, config.channels, 3, padding=1)
        self.takes = takes(config) | {"residuals"}
        zero_init_branches(self)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def prepare(self, condition: Condition) -> Condition:
        """Project the text once for all steps; a condition that is prepared already is returned as
        it is.

        ``tokens.projected`` becomes the keys and the values of each cross-attention in turn, (b, n,
        heads, d) each; ``streams`` come with as many of their own.
        """
        return prepare(self, condition, self.takes, self.config)

    def forward(self, noisy: Latents, time: Tensor, condition: Condition) -> Tensor:
        return self.answer(noisy, time, condition)

    def variant(self, skip_blocks: Sequence[int], self_only_blocks: Sequence[int]) -> Network:
        """This network without the attention layers ``skip_blocks``, and with places that see only
        themselves in ``self_only_blocks``.

        A layer is the whole attention behind one residual block, counted from 0 on the way down,
        through the middle, up: 0 … 5, 6 and 7 … 15 in Stable Diffusion 1.
        """
        count = sum(block.attention is not None for block in blocks(self))
        for layer in (*skip_blocks, *self_only_blocks):
            if not 0 <= layer < count:
                raise BadInput(
                    f"this U-Net has the attention layers 0 to {count - 1}, not {layer}: name "
                    "these."
                )
        return partial(self.answer, skip=frozenset(skip_blocks), alone=frozenset(self_only_blocks))

    def answer(
        self,
        noisy: Latents,
        time: Tensor,
        condition: Condition,
        skip: Layers = (),
        alone: Layers = (),
    ) -> Tensor:
        """``forward``, without the parts that ``variant`` leaves out."""
        condition = self.prepare(condition)
        plan = attention_plan(self, condition, skip, alone)
        more = split(condition.residuals, len(self.encoder.skip_widths), len(self.config.levels))
        emb = self.encoder.embed(time, condition)
        x, left = self.encoder(
            self.encoder.join(noisy, condition.channels, self.size_multiple), emb, plan, more[2]
        )
        if more[0]:
            left = [one + added.to(one.dtype) for one, added in zip(left, more[0], strict=True)]
        x = x if more[1] is None else x + more[1].to(x.dtype)
        for part in self.up:
            if isinstance(part, Block):
                x = x if part.residual.resize else torch.cat([x, left.pop()], dim=1)
                x = part(x, emb, *next(plan))
            else:
                x = part(x)
        answer: Tensor = self.leave(self.norm(x, mine=True))
        return answer.to(noisy.dtype)


def split(
    residuals: Sequence[Tensor], left: int, levels: int
) -> tuple[Sequence[Tensor], Tensor | None, Sequence[Tensor]]:
    """``residuals`` for what is left on the way down, for the middle, and for the way down
    itself."""
    trunks = (0, levels, levels + 1)
    if len(residuals) in trunks:
        return (), None, residuals
    if len(residuals) - left - 1 not in trunks:
        raise BadInput(
            f"this U-Net takes {left + 1} residuals (control), or {levels} or {levels + 1} "
            "(an adapter's), or both in "
            f"this order, got {len(residuals)}."
        )
    rest = iter(residuals)
    return list(islice(rest, left)), next(rest), list(rest)
