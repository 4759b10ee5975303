"""The network of the diffusion transformer."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.denoisers.dit.config import Config
from safelight.diffusion.condition import refuse
from safelight.nn.attention import Context, CrossAttention, SelfAttention, self_only_mask
from safelight.nn.blocks import ALL_BLOCKS, BlockSelection
from safelight.nn.embeddings import TimeEmbedding
from safelight.nn.modulation import Final, Modulation, init_adaln_zero, modulated
from safelight.nn.patchify import patch_grid, patchify, require_latents, unpatchify
from safelight.nn.positions import Rotation, grid_positions, rotation
from safelight.types.networks import Condition, Network, Tokens
from safelight.types.shapes import Shape
from safelight.types.tensors import Latents


class DiT(nn.Module):
    """Noisy latents (b, channels, *space), time (b,) and a condition → an answer of the latents'
    shape.

    It takes ``tokens`` if it has text, ``vector`` and ``channels`` if they have a width; each may
    be left out of a condition. Any other way in, and a size that the patch does not divide, is
    BadInput.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.size_multiple = config.patch
        volume = config.patch**config.axes
        self.patches = nn.Linear((config.channels + config.extra_channels) * volume, config.width)
        self.time = TimeEmbedding(config.width)
        self.vector = nn.Linear(config.vector_width, config.width) if config.vector_width else None
        self.text = nn.Linear(config.text_width, config.width) if config.text == "joint" else None
        self.modulation = Modulation(config.width, 6) if config.modulation == "shared" else None
        self.blocks = cast("list[Block]", nn.ModuleList(Block(config) for _ in range(config.depth)))
        self.final = Final(config.width, config.channels * volume)
        ways = {
            "tokens": config.text != "none",
            "vector": config.vector_width,
            "channels": config.extra_channels,
        }
        self.scalar_names: frozenset[str] = frozenset()
        self.takes = frozenset(name for name, is_open in ways.items() if is_open)
        self.initialise()

    def initialise(self) -> None:
        """As ``init_adaln_zero``, and zero where text joins the trunk, so that each block starts as
        the identity."""
        init_adaln_zero(self)
        for module in self.modules():
            if isinstance(module, CrossAttention):
                nn.init.zeros_(module.out.weight)

    def prepare(self, condition: Condition) -> Condition:
        """Project the text once for all steps; a condition that is prepared already is returned as
        it is.

        ``tokens.projected`` becomes, for cross-attention, the keys and the values of each block in
        turn, (b, n, heads, d) each; for joint text, the one tensor (b, n, width) that enters the
        sequence.
        """
        refuse(condition, self.takes, "this transformer")
        tokens = condition.tokens
        if tokens is None or tokens.projected:
            return condition
        values = tokens.values.to(self.patches.weight.dtype)
        projected: tuple[Tensor, ...] = ()
        if self.text is not None:
            projected = (self.text(values),)
        for block in self.blocks:
            if block.cross is not None:
                projected += block.cross.project(values)
        return replace(condition, tokens=replace(tokens, projected=projected))

    def variant(self, skip_blocks: Sequence[int], self_only_blocks: Sequence[int]) -> Network:
        """This network without the blocks ``skip_blocks``, and with patches that see only
        themselves in those ``self_only_blocks``."""
        return partial(
            self, selection=BlockSelection.of(skip_blocks, self_only_blocks, len(self.blocks))
        )

    def forward(
        self,
        noisy: Latents,
        time: Tensor,
        condition: Condition,
        selection: BlockSelection = ALL_BLOCKS,
    ) -> Tensor:
        """``noisy`` (b, channels, *space), ``time`` (b,) on the scale of 0 … 1000 → (b, channels,
        *space)."""
        require_latents(noisy, self.config.channels, self.config.axes)
        grid = patch_grid(noisy.shape[2:], self.config.patch)
        condition = self.prepare(condition)
        tokens = condition.tokens
        emb = self.embed(time, condition.vector)
        x = self.patches(
            patchify(self.join(noisy, condition.channels), self.config.patch)
        )  # (b, n, width)
        mask, ahead = None, 0
        if tokens is not None and self.text is not None:
            ahead = tokens.mask.shape[1]
            mask = F.pad(tokens.mask, (0, x.shape[1]), value=True)
            x = torch.cat([tokens.projected[0], x], dim=1)  # (b, text + n, width)
        rope = self.rope(grid, ahead, x.device)
        shared = emb if self.modulation is None else self.modulation(emb)
        only_self = self_only_mask(mask, x.shape[1], ahead, x.device) if selection.alone else None
        for index, block in enumerate(self.blocks):
            if index not in selection.skip:
                x = block(
                    x,
                    shared,
                    rope,
                    only_self if index in selection.alone else mask,
                    self.context(tokens, index),
                )
        answer = self.final(x[:, ahead:], emb)  # (b, n, patch^axes · channels)
        return unpatchify(answer, self.config.patch, grid).to(noisy.dtype)

    def join(self, noisy: Latents, channels: Float[Tensor, "b extra *space"] | None) -> Tensor:
        """The latents and whatever is concatenated to them, in the precision of the parameters."""
        if self.config.extra_channels == 0:
            return noisy.to(self.patches.weight.dtype)
        if channels is None:
            channels = noisy.new_zeros(noisy.shape[0], self.config.extra_channels, *noisy.shape[2:])
        return torch.cat([noisy, channels], dim=1).to(self.patches.weight.dtype)

    def embed(self, time: Tensor, vector: Tensor | None) -> Tensor:
        """Time and vector as one embedding (b, width), ready for the modulations."""
        emb: Tensor = self.time(time)
        if vector is not None and self.vector is not None:
            emb = emb + self.vector(vector.to(self.patches.weight.dtype))
        return F.silu(emb)

    def context(self, tokens: Tokens | None, index: int) -> Context | None:
        """The keys and values of the cross-attention of block ``index``; None without text."""
        if tokens is None or self.text is not None:
            return None
        keys, values = tokens.projected[2 * index : 2 * index + 2]
        return Context(keys, values, tokens.mask)

    def rope(self, grid: Shape, ahead: int, device: torch.device) -> Rotation:
        """Where each token lies: patches on the grid; joint text before them, on an axis of its
        own, counted from 1."""
        places = grid_positions(grid, device)  # (n, axes)
        if self.text is not None:
            words = torch.arange(1, ahead + 1, device=device)[:, None]
            places = torch.cat(
                [F.pad(words, (0, len(grid))), F.pad(places, (1, 0))]
            )  # (text + n, 1 + axes)
        return rotation(places, self.config.width // self.config.heads)


class Block(nn.Module):
    """Self-attention, text, MLP; the first and the last shifted, scaled and gated by the
    embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.modulation = Modulation(width, 6) if config.modulation == "block" else Table(width, 6)
        self.attention = SelfAttention(width, config.heads)
        self.cross = (
            CrossAttention(width, config.text_width, config.heads)
            if config.text == "cross"
            else None
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width)
        )

    def forward(
        self, x: Tensor, emb: Tensor, rope: Rotation, mask: Tensor | None, text: Context | None
    ) -> Tensor:
        """``x`` (b, n, width), ``emb`` as its modulation takes it → (b, n, width)."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (
            self.modulation(emb).to(x.dtype).split(1, dim=1)
        )
        x = torch.addcmul(x, gate, self.attention(modulated(x, shift, scale), rope, mask))
        if self.cross is not None and text is not None:
            x = x + self.cross(x, *text)
        return torch.addcmul(x, gate_mlp, self.mlp(modulated(x, shift_mlp, scale_mlp)))


class Table(nn.Module):
    """adaLN-single: what one block adds to the modulation that all share, (b, parts, width) → the
    same."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.zeros(parts, width))

    def forward(self, shared: Tensor) -> Tensor:
        return shared + self.offsets
