"""The network of the multimodal diffusion transformer."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.denoisers.mmdit.config import Config
from safelight.diffusion.condition import refuse
from safelight.nn.attention import Heads, attend, joint_mask, self_only_mask
from safelight.nn.blocks import ALL_BLOCKS, BlockSelection
from safelight.nn.embeddings import TimeEmbedding
from safelight.nn.modulation import Final, init_adaln_zero, modulated
from safelight.nn.patchify import patch_grid, patchify, require_latents, unpatchify
from safelight.nn.positions import PositionTable
from safelight.nn.streams import Stream
from safelight.types.networks import Condition, Network
from safelight.types.tensors import Latents


class MMDiT(nn.Module):
    """Noisy latents (b, channels, h, w), time (b,) and a condition → an answer of the latents'
    shape.

    It takes ``tokens``, ``vector`` and ``residuals``, each of which may be left out. Residuals, (b,
    n, width) each, are added to the patches after every block but the last; if they are fewer than
    the blocks, one serves several blocks in turn. Any other way in, and sizes that the patch does
    not divide or the positions do not reach, are BadInput.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.size_multiple = config.patch
        self.scalar_names: frozenset[str] = frozenset()
        self.takes = frozenset({"tokens", "vector", "residuals"})
        width, volume, last = config.width, config.channels * config.patch**2, config.depth - 1
        self.patches = nn.Linear(volume, width)
        self.positions = PositionTable(config.side, width)
        self.time = TimeEmbedding(width)
        self.vector = nn.Sequential(
            nn.Linear(config.vector_width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.text = nn.Linear(config.text_width, width)
        blocks = (Block(config, index, index == last) for index in range(config.depth))
        self.blocks = cast("list[Block]", nn.ModuleList(blocks))
        self.final = Final(width, volume)
        init_adaln_zero(self)

    def prepare(self, condition: Condition) -> Condition:
        """Project the text once for all steps: ``tokens.projected`` becomes one tensor (b, n,
        width)."""
        refuse(condition, self.takes, "this transformer")
        return prepare(condition, self.text)

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
        """``noisy`` (b, channels, h, w), ``time`` (b,) on the scale of 0 … 1000 → (b, channels, h,
        w)."""
        require_latents(noisy, self.config.channels)
        grid = patch_grid(noisy.shape[2:], self.config.patch)
        condition = self.prepare(condition)
        x = self.patches(
            patchify(noisy.to(self.patches.weight.dtype), self.config.patch)
        )  # (b, n, width)
        x = x + self.positions.middle(grid).to(x.dtype)
        text, mask, ahead = None, None, 0
        if condition.tokens is not None:
            text, ahead = condition.tokens.projected[0].to(x.dtype), condition.tokens.mask.shape[1]
            mask = joint_mask(condition.tokens.mask, x.shape[1])
        emb, last = self.embed(time, condition.vector), len(self.blocks) - 1
        only_self = (
            self_only_mask(mask, ahead + x.shape[1], ahead, x.device) if selection.alone else None
        )
        for index, block in enumerate(self.blocks):
            if index not in selection.skip:
                x, text = block(x, text, emb, only_self if index in selection.alone else mask)
            if condition.residuals and index < last:
                x = x + condition.residuals[
                    index * len(condition.residuals) // len(self.blocks)
                ].to(x.dtype)
        return unpatchify(self.final(x, emb), self.config.patch, grid).to(noisy.dtype)

    def embed(self, time: Tensor, vector: Tensor | None) -> Tensor:
        """Time and vector as one embedding (b, width), ready for the modulations."""
        emb: Tensor = self.time(time)
        if vector is not None:
            emb = emb + self.vector(vector.to(self.patches.weight.dtype))
        return F.silu(emb)


class Block(nn.Module):
    """One attention of patches and text together, and an MLP for each; in the last block the text
    only answers."""

    def __init__(self, config: Config, index: int, last: bool = False) -> None:
        super().__init__()
        dual = index in config.dual
        width, heads, hidden = config.width, config.heads, int(config.width * config.mlp_ratio)
        self.patches = Stream(width, heads, hidden, 9 if dual else 6, config.qk_norm)
        self.text = Stream(width, heads, hidden, 2 if last else 6, config.qk_norm)
        self.dual = Heads(config.width, config.heads, config.qk_norm) if dual else None

    def forward(
        self, x: Tensor, text: Tensor | None, emb: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """``x`` (b, n, width), ``text`` (b, m, width), ``emb`` (b, width) → patches and text anew.

        ``mask`` over text and patches, in this order: true for what may be looked at, (b, m + n),
        or looked at by each, (1 or b, m + n, m + n).
        """
        n = x.shape[1]
        shift, scale, *mine = self.patches.scales(emb, x.dtype)
        q, k, v = self.patches.attention(modulated(x, shift, scale))
        theirs: list[Tensor] = []
        if text is not None:
            shift, scale, *theirs = self.text.scales(emb, x.dtype)
            context, *seen = self.text.attention(modulated(text, shift, scale))
            k, v = (torch.cat(pair, dim=1) for pair in zip(seen, (k, v), strict=True))
            q = torch.cat([context, q], dim=1) if theirs else q
        seen_by_each = mask[:, -q.shape[1] :] if mask is not None and mask.ndim == 3 else mask
        mixed = attend(q, k, v, seen_by_each, self.patches.attention.quick)
        if text is not None and theirs:
            text = self.text.onward(text, mixed[:, :-n], theirs)
        return self.patches.onward(x, mixed[:, -n:], mine, self.among(x, mask, mine[4:])), text

    def among(self, x: Tensor, mask: Tensor | None, scales: Sequence[Tensor]) -> Tensor | None:
        """What the second attention adds to the patches ``x`` (b, n, width); None if there is
        none."""
        if self.dual is None or self.dual.out is None:
            return None
        n, (shift, scale, gate) = x.shape[1], scales
        q, k, v = self.dual(modulated(x, shift, scale))
        among = mask[:, -n:, -n:] if mask is not None and mask.ndim == 3 else None
        mixed = attend(q, k, v, among, self.dual.quick)
        added: Tensor = gate * self.dual.out(mixed)
        return added


def prepare(condition: Condition, text: nn.Linear) -> Condition:
    """The condition with its tokens projected by ``text``, if they are not yet."""
    tokens = condition.tokens
    if tokens is None or tokens.projected:
        return condition
    projected = text(tokens.values.to(text.weight.dtype))
    return replace(condition, tokens=replace(tokens, projected=(projected,)))
