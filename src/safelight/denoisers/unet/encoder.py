"""The way down of the U-Net and its middle, which control copies."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.denoisers.unet.blocks import Block, residual
from safelight.denoisers.unet.config import Config
from safelight.diffusion.condition import refuse
from safelight.errors import BadInput
from safelight.nn.attention import CrossAttention
from safelight.nn.embeddings import TimeEmbedding, sinusoidal
from safelight.nn.spatial_transformer import Contexts, How
from safelight.nn.unet_blocks import Down
from safelight.types.networks import Condition
from safelight.types.tensors import Latents


class Encoder(nn.Module):
    """The way down and the middle, and the embedding of time and conditions; ``skip_widths``: the
    widths of the skip connections to the way up."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        before = config.levels[0].width
        self.enter = nn.Conv2d(config.channels + config.extra_channels, before, 3, padding=1)
        self.time = TimeEmbedding(config.embedding_width, frequencies=before)
        self.vector = (
            embedding(config.vector_width, config.embedding_width) if config.vector_width else None
        )
        self.classes = (
            nn.Embedding(config.classes, config.embedding_width) if config.classes else None
        )
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
        self._skip_widths = tuple(left)
        self.down = nn.ModuleList(parts)
        last = config.levels[-1]
        self.middle = Block(
            config, before, replace(last, depth=max(config.middle, 0), text_only=False)
        )
        self.after = residual(config, before, before) if config.middle >= 0 else None

    @property
    def skip_widths(self) -> list[int]:
        """The width of each skip connection, in order."""
        return list(self._skip_widths)

    def join(self, noisy: Latents, channels: Tensor | None, size_multiple: int) -> Tensor:
        """The latents and whatever is concatenated to them, in the precision of the parameters;
        BadInput for latents that do not fit."""
        config, sides = self.config, noisy.shape[2:]
        if (
            noisy.ndim != 4
            or noisy.shape[1] != config.channels
            or any(side % size_multiple for side in sides)
        ):
            raise BadInput(
                f"this U-Net takes {config.channels} channels and sides that are multiples of "
                f"{size_multiple}, not latents of "
                f"shape {tuple(noisy.shape)}."
            )
        if config.extra_channels:
            if channels is None:
                channels = noisy.new_zeros(len(noisy), config.extra_channels, *sides)
            noisy = torch.cat([noisy, channels.to(noisy.dtype)], dim=1)
        return noisy.to(self.enter.weight.dtype)

    def embed(self, time: Tensor, condition: Condition) -> Tensor:
        """Time, guidance, vector and noise level as one embedding, (b, embedding_width)."""
        extra = None
        if (
            self.guidance is not None
        ):  # the scale minus 1 (no guidance), times 1000, as diffusers' pipelines pass it
            scale = condition.scalars.get("guidance", torch.ones_like(time)).float() - 1
            waves = sinusoidal(1000 * scale, self.config.guidance, inclusive=True)
            extra = self.guidance(waves.to(self.guidance.weight.dtype))
        emb: Tensor = self.time(time, extra)
        if self.vector is not None and condition.vector is not None:
            emb = emb + self.vector(condition.vector.to(emb.dtype))
        if self.classes is not None and "noise_level" in condition.scalars:
            emb = emb + self.classes(condition.scalars["noise_level"].round().long())
        return F.silu(emb)

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        plan: "Iterator[tuple[Contexts, How]]",
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
            x = part(x, emb, *next(plan)) if isinstance(part, Block) else part(x)
            final = (number + 1) % (
                self.config.blocks + 1
            ) == self.config.blocks  # the level's last block
            if more and (final if levels[level].depth or level == len(levels) - 1 else resizes):
                x = x + more.pop(0).to(x.dtype)
            level += resizes
            left.append(x)
        x = self.middle(x, emb, *next(plan))
        x = x if self.after is None else self.after(x, emb)
        return x + more.pop(0).to(x.dtype) if more else x, left


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
    """The names of the scalars that the network takes."""
    known = {"noise_level": config.classes, "guidance": config.guidance}
    return frozenset(name for name, is_open in known.items() if is_open)


def prepare(
    network: nn.Module, condition: Condition, ways: Collection[str], config: Config
) -> Condition:
    """See ``UNet.prepare``."""
    refuse(condition, ways, "this U-Net")
    if set(condition.scalars) - scalar_names(config):
        known = " and ".join(sorted(scalar_names(config)))
        raise BadInput(
            f"this U-Net takes the scalar {known}, got {', '.join(sorted(condition.scalars))}."
        )
    crosses = [one for one in network.modules() if isinstance(one, CrossAttention)]
    if any(len(one.projected) != 2 * len(crosses) for one in condition.streams):
        raise BadInput(
            "this U-Net takes streams with the keys and values that an adapter made for "
            "it: apply one."
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
