"""The U-Net of latent diffusion (Rombach et al., arXiv 2112.10752): Stable Diffusion 1 and 2, SDXL (arXiv 2307.01952)
and its refiner, with further input channels for masks, pictures and depth, and the models of the paper itself.

Residual blocks on levels of falling size, and back up beside what each left on the way down; attention after the
blocks of some levels, to the other places and to a text.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.diffusion.condition import refuse
from safelight.errors import BadInput
from safelight.nn.attention import CrossAttention, Source
from safelight.nn.conv_autoencoder import Up
from safelight.nn.embeddings import TimeEmbedding, sinusoidal
from safelight.nn.norms import GroupNorm
from safelight.nn.spatial_transformer import Asked, How, PlainAttention, Transformer
from safelight.nn.unet_blocks import Down, Residual, Resize
from safelight.types.networks import Condition, Network
from safelight.types.tensors import Latents

Layers = Collection[int]
"""Layers of attention by their numbers: see ``UNet.without``."""


@dataclass(frozen=True)
class Level:
    """One size of the features: how wide they are, and the attention after each residual block.

    ``depth`` transformer blocks, 0 for none; with ``text_only`` even their first attention asks the text alone. ``up``:
    the depths on the way up, one for each of its residual blocks, where they are others.
    """

    width: int = 320
    depth: int = 1
    heads: int = 8
    text_only: bool = False
    up: tuple[int, ...] = ()

    def rising(self, block: int) -> "Level":
        """The level as it is at a block on the way up."""
        return replace(self, depth=self.up[block]) if self.up else self


@dataclass(frozen=True)
class Norm:
    """The group norms of the residual blocks, of plain attention and at the end. ``modulated``: time scales and shifts
    a residual block's second one; else it is added before it (ADM, arXiv 2105.05233)."""

    groups: int = 32
    eps: float = 1e-5
    modulated: bool = False


@dataclass(frozen=True)
class Config:
    """A U-Net for latents of ``channels``; each level after the first halves the size. A width of 0 closes a way in.

    ``blocks`` residual blocks a level on the way down, one more on the way up; ``middle`` as a level's ``depth``, -1 if
    it is one residual block. Without text the attention is plain (``depth`` 1). ``classes``: how many noise levels, or
    classes, the network knows by ``scalars["noise_level"]``; ``guidance``: by how many sinusoids it hears the scale of
    guidance that was distilled into it. ``linear`` says how files of this network hold the ends of a transformer: as
    linear layers, or as 1×1 convolutions; they compute the same. ``residual_resize``: sizes change inside residual
    blocks (ADM, arXiv 2105.05233).
    """

    channels: int = 4
    extra_channels: int = 0
    levels: tuple[Level, ...] = (Level(128, 0, 4), Level(256, 1, 4), Level(384, 1, 6))
    blocks: int = 2
    middle: int = 1
    text_width: int = 256
    vector_width: int = 0
    classes: int = 0
    guidance: int = 0
    norm: Norm = field(default_factory=Norm)
    linear: bool = True
    residual_resize: bool = False

    def __post_init__(self) -> None:
        if (
            not self.levels
            or min(self.channels, self.blocks, *(one.width for one in self.levels)) < 1
        ):
            raise BadInput(
                f"a U-Net wants channels, blocks, and levels that each have a width, got {self}."
            )
        ways = (
            self.extra_channels,
            self.text_width,
            self.vector_width,
            self.classes,
            self.guidance,
        )
        if min(self.middle + 1, *ways) < 0:
            raise BadInput(
                f"a U-Net's extra_channels, middle, widths and classes are 0 or more, got {self}."
            )
        for one in self.levels:
            if one.width % self.norm.groups:
                raise BadInput(
                    f"a level {one.width} wide cannot be normalised in {self.norm.groups} groups alike."
                )
            if one.heads < 1 or (any((one.depth, *one.up)) and one.width % one.heads):
                raise BadInput(
                    f"a level {one.width} wide cannot be shared by {one.heads} heads alike."
                )
            if one.up and (len(one.up) != self.blocks + 1 or min(one.up) < 0):
                raise BadInput(
                    f"wanted {self.blocks + 1} depths on the way up of each level, got {one.up}."
                )
        deepest = max(
            self.middle, *(max(one.depth, *one.up, one.text_only * 2) for one in self.levels)
        )
        if not self.text_width and deepest > 1:
            raise BadInput(
                "plain attention has a depth of 1 and no text: give a text_width, or levels of depth 1."
            )

    @property
    def hearing(self) -> int:
        """The width of the embedding of time."""
        return 4 * self.levels[0].width

    def build(self) -> "UNet":
        """The network, freshly initialised: its answer is zero everywhere."""
        return UNet(self)


class UNet(nn.Module):
    """Noisy latents (b, channels, h, w), time (b,) on the scale of 0 … 999 and a condition → an answer of that shape.

    It takes ``tokens`` if it has a text width, and ``streams`` that an adapter has projected for it; ``vector``,
    ``channels``, ``scalars["noise_level"]`` (0 … classes - 1) and ``scalars["guidance"]`` if they have a width; left
    out, the latter is 1: none. ``residuals`` are, first, what
    is added to that which each part of the way down leaves for the way up, in order, beginning with the first
    convolution, and to the middle's result (ControlNet, arXiv 2302.05543); then, or instead, what is added to the way
    down itself, one a level and perhaps one after the middle (T2I-Adapter, arXiv 2302.08453): behind a level's last
    attention, or, where it has none, behind its change of size. Any other way in, and sides that are no multiples of
    ``size_multiple``, are BadInput.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.size_multiple = 2 ** (len(config.levels) - 1)
        self.scalar_names = scalar_names(config)
        self.encoder = Encoder(config)
        left = self.encoder.left
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
        join_at_zero(self)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def prepare(self, condition: Condition) -> Condition:
        """Project the text once for all steps; a condition that is prepared already is returned as it is.

        ``tokens.projected`` becomes the keys and the values of each cross-attention in turn, (b, n, heads, d) each;
        ``streams`` come with as many of their own.
        """
        return prepare(self, condition, self.takes, self.config)

    def forward(self, noisy: Latents, time: Tensor, condition: Condition) -> Tensor:
        return self.answer(noisy, time, condition)

    def variant(self, skip_blocks: Sequence[int], self_only_blocks: Sequence[int]) -> Network:
        """This network without the attention layers ``skip_blocks``, and with places that see only themselves in ``self_only_blocks``.

        A layer is the whole attention behind one residual block, counted from 0 on the way down, through the middle,
        up: 0 … 5, 6 and 7 … 15 in Stable Diffusion 1.
        """
        count = sum(block.attention is not None for block in blocks(self))
        for layer in (*skip_blocks, *self_only_blocks):
            if not 0 <= layer < count:
                raise BadInput(
                    f"this U-Net has the attention layers 0 to {count - 1}, not {layer}: name these."
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
        """``forward`` and, less some of its parts, what ``without`` gives."""
        condition = self.prepare(condition)
        plan = planned(self, condition, skip, alone)
        more = split(condition.residuals, len(self.encoder.left), len(self.config.levels))
        heard = self.encoder.hear(time, condition)
        x, left = self.encoder(
            self.encoder.join(noisy, condition.channels, self.size_multiple), heard, plan, more[2]
        )
        if more[0]:
            left = [one + added.to(one.dtype) for one, added in zip(left, more[0], strict=True)]
        x = x if more[1] is None else x + more[1].to(x.dtype)
        for part in self.up:
            if isinstance(part, Block):
                x = x if part.residual.resize else torch.cat([x, left.pop()], dim=1)
                x = part(x, heard, *next(plan))
            else:
                x = part(x)
        answer: Tensor = self.leave(self.norm(x, mine=True))
        return answer.to(noisy.dtype)


class Encoder(nn.Module):
    """The way down and the middle, and what they hear; ``left``: the widths of what they leave for the way up."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        before = config.levels[0].width
        self.enter = nn.Conv2d(config.channels + config.extra_channels, before, 3, padding=1)
        self.time = TimeEmbedding(config.hearing, frequencies=before)
        self.vector = (
            embedding(config.vector_width, config.hearing) if config.vector_width else None
        )
        self.classes = nn.Embedding(config.classes, config.hearing) if config.classes else None
        self.guidance = nn.Linear(config.guidance, before, bias=False) if config.guidance else None
        left, parts = [before], list[nn.Module]()
        for number, level in enumerate(config.levels):
            for _ in range(config.blocks):
                parts.append(Block(config, before, level))
                before = level.width
                left.append(before)
            if number < len(config.levels) - 1:
                parts.append(
                    Block(config, before, level, "down") if config.residual_resize else Down(before)
                )
                left.append(before)
        self._left = tuple(left)
        self.down = nn.ModuleList(parts)
        last = config.levels[-1]
        self.middle = Block(
            config, before, replace(last, depth=max(config.middle, 0), text_only=False)
        )
        self.after = residual(config, before, before) if config.middle >= 0 else None

    @property
    def left(self) -> list[int]:
        """The width of what each part leaves, in order."""
        return list(self._left)

    def join(self, noisy: Latents, channels: Tensor | None, size_multiple: int) -> Tensor:
        """The latents and whatever is concatenated to them, in the precision of the parameters; BadInput for latents
        that do not fit."""
        config, sides = self.config, noisy.shape[2:]
        if (
            noisy.ndim != 4
            or noisy.shape[1] != config.channels
            or any(side % size_multiple for side in sides)
        ):
            raise BadInput(
                f"this U-Net takes {config.channels} channels and sides that are multiples of {size_multiple}, not latents of "
                f"shape {tuple(noisy.shape)}."
            )
        if config.extra_channels:
            if channels is None:
                channels = noisy.new_zeros(len(noisy), config.extra_channels, *sides)
            noisy = torch.cat([noisy, channels.to(noisy.dtype)], dim=1)
        return noisy.to(self.enter.weight.dtype)

    def hear(self, time: Tensor, condition: Condition) -> Tensor:
        """Time, guidance, vector and noise level as one embedding, (b, hearing)."""
        beside = None
        if (
            self.guidance is not None
        ):  # what is beyond no guidance, a thousandfold, as diffusers' pipelines tell it
            scale = condition.scalars.get("guidance", torch.ones_like(time)).float() - 1
            waves = sinusoidal(1000 * scale, self.config.guidance, inclusive=True)
            beside = self.guidance(waves.to(self.guidance.weight.dtype))
        heard: Tensor = self.time(time, beside)
        if self.vector is not None and condition.vector is not None:
            heard = heard + self.vector(condition.vector.to(heard.dtype))
        if self.classes is not None and "noise_level" in condition.scalars:
            heard = heard + self.classes(condition.scalars["noise_level"].round().long())
        return F.silu(heard)

    def forward(
        self,
        x: Tensor,
        heard: Tensor,
        plan: "Iterator[tuple[Asked, How]]",
        trunk: Sequence[Tensor] = (),
        hint: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """(b, channels, h, w) → the middle's result, and what each part left.

        ``hint`` is added behind the first convolution, ``trunk`` on the way.
        """
        x, level, more = self.enter(x), 0, list(trunk)
        x = x if hint is None else x + hint.to(x.dtype)
        left, levels = [x], self.config.levels
        for number, part in enumerate(self.down):
            resizes = not isinstance(part, Block) or bool(part.residual.resize)
            x = part(x, heard, *next(plan)) if isinstance(part, Block) else part(x)
            final = (number + 1) % (
                self.config.blocks + 1
            ) == self.config.blocks  # the level's last block
            if more and (final if levels[level].depth or level == len(levels) - 1 else resizes):
                x = x + more.pop(0).to(x.dtype)
            level += resizes
            left.append(x)
        x = self.middle(x, heard, *next(plan))
        x = x if self.after is None else self.after(x, heard)
        return x + more.pop(0).to(x.dtype) if more else x, left


class Block(nn.Module):
    """A residual block and, where the level attends, attention; or one that changes the size, without attention."""

    def __init__(self, config: Config, before: int, level: Level, resize: Resize = "") -> None:
        super().__init__()
        self.residual = residual(config, before, level.width, resize)
        self.attention: Transformer | PlainAttention | None = None
        groups, eps = config.norm.groups, config.norm.eps
        if level.depth and not resize and config.text_width:
            self.attention = Transformer(
                level.width, level.depth, level.heads, config.text_width, level.text_only, groups
            )
        elif level.depth and not resize:
            self.attention = PlainAttention(level.width, level.heads, groups, eps)

    def forward(self, x: Tensor, heard: Tensor, asked: Asked, how: How) -> Tensor:
        x = self.residual(x, heard)
        return x if self.attention is None or how == "skipped" else self.attention(x, asked, how)


def residual(config: Config, before: int, width: int, resize: Resize = "") -> Residual:
    return Residual(
        before,
        width,
        config.hearing,
        config.norm.groups,
        config.norm.eps,
        config.norm.modulated,
        resize,
    )


def embedding(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, width), nn.SiLU(), nn.Linear(width, width))


def takes(config: Config) -> frozenset[str]:
    """The ways in that a U-Net of this shape has open."""
    ways = {
        "tokens": config.text_width,
        "streams": config.text_width,
        "vector": config.vector_width,
    }
    ways |= {"scalars": len(scalar_names(config)), "channels": config.extra_channels}
    return frozenset(name for name, is_open in ways.items() if is_open)


def scalar_names(config: Config) -> frozenset[str]:
    """The scalars that it hears."""
    known = {"noise_level": config.classes, "guidance": config.guidance}
    return frozenset(name for name, is_open in known.items() if is_open)


def blocks(network: nn.Module) -> list[Block]:
    """All blocks, in the order in which they are passed."""
    return [one for one in network.modules() if isinstance(one, Block)]


def prepare(
    network: nn.Module, condition: Condition, ways: Collection[str], config: Config
) -> Condition:
    """See ``UNet.prepare``."""
    refuse(condition, ways, "this U-Net")
    if set(condition.scalars) - scalar_names(config):
        known = " and ".join(sorted(scalar_names(config)))
        raise BadInput(
            f"this U-Net hears the scalar {known}, got {', '.join(sorted(condition.scalars))}."
        )
    crosses = [one for one in network.modules() if isinstance(one, CrossAttention)]
    if any(len(one.projected) != 2 * len(crosses) for one in condition.streams):
        raise BadInput(
            "this U-Net takes streams with the keys and values that an adapter made for it: apply one."
        )
    tokens = condition.tokens
    if tokens is None or tokens.projected:
        return condition
    if tokens.values.shape[-1] != config.text_width:
        raise BadInput(
            f"this U-Net takes tokens {config.text_width} wide, got {tokens.values.shape[-1]}."
        )
    values = tokens.values.to(crosses[0].kv.weight.dtype)
    projected = tuple(one for cross in crosses for one in cross.project(values))
    return replace(condition, tokens=replace(tokens, projected=projected))


def planned(
    network: nn.Module, condition: Condition, skip: Layers = (), alone: Layers = ()
) -> Iterator[tuple[Asked, How]]:
    """What each block asks and how it attends, in the order in which they are passed; ``condition`` is prepared."""
    sequences = [one for one in (condition.tokens, *condition.streams) if one is not None]
    pairs = [
        (tuple(zip(one.projected[::2], one.projected[1::2], strict=True)), one.mask)
        for one in sequences
    ]
    number, layer = 0, 0
    for block in blocks(network):
        count = sum(isinstance(one, CrossAttention) for one in block.modules())
        asked = tuple(
            tuple(Source(*each[index], mask) for each, mask in pairs)
            for index in range(number, number + count)
        )
        attends = block.attention is not None
        how: How = (
            "skipped"
            if attends and layer in skip
            else "alone"
            if attends and layer in alone
            else "whole"
        )
        number, layer = number + count, layer + attends
        yield asked, how


def split(
    residuals: Sequence[Tensor], left: int, levels: int
) -> tuple[Sequence[Tensor], Tensor | None, Sequence[Tensor]]:
    """``residuals`` for what is left on the way down, for the middle, and for the way down itself."""
    trunks = (0, levels, levels + 1)
    if len(residuals) in trunks:
        return (), None, residuals
    if len(residuals) - left - 1 not in trunks:
        raise BadInput(
            f"this U-Net takes {left + 1} residuals (control), or {levels} or {levels + 1} (an adapter's), or both in "
            f"this order, got {len(residuals)}."
        )
    rest = iter(residuals)
    return list(islice(rest, left)), next(rest), list(rest)


def join_at_zero(network: nn.Module) -> None:
    """Zero wherever a branch joins the trunk, so that each block starts as its skip."""
    for module in network.modules():
        last = {Residual: "conv2", Transformer: "leave", PlainAttention: "leave"}.get(type(module))
        if last:
            joining = module.get_submodule(last)
            for parameter in joining.parameters():
                nn.init.zeros_(parameter)
