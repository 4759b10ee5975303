"""The network of the diffusion transformer as published."""

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from safelight.denoisers.plain_dit.config import Config
from safelight.diffusion.condition import refuse
from safelight.errors import BadInput
from safelight.nn.attention import self_only_mask
from safelight.nn.blocks import ALL_BLOCKS, BlockSelection
from safelight.nn.embeddings import TimeEmbedding
from safelight.nn.modulation import Final, init_adaln_zero
from safelight.nn.patchify import patch_grid, patchify, require_latents, unpatchify
from safelight.nn.positions import PositionTable
from safelight.nn.streams import Stream
from safelight.types.networks import Condition, Network
from safelight.types.tensors import Latents


class PlainDiT(nn.Module):
    """Noisy latents (b, channels, h, w), time (b,) and a condition → an answer of the latents'
    shape, or of twice their channels with a learned variance.

    It takes ``scalars["label"]``, the number of a class; the number after the last one, or no
    label, means no class. Any other way in, and a size that the patch does not divide, is BadInput.
    Other sizes than the table's stretch its positions.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.size_multiple = config.patch
        self.scalar_names = frozenset({"label"} if config.classes else ())
        self.takes = frozenset({"scalars"} if config.classes else ())
        width, volume = config.width, config.channels * config.patch**2
        hidden = int(width * config.mlp_ratio)
        self.patches = nn.Linear(volume, width)
        self.positions = PositionTable(config.side, width)
        number = config.depth if config.embedders == "each" else 1
        self.embedders = nn.ModuleList(Embedder(config) for _ in range(number))
        blocks = [
            Stream(width, config.heads, hidden, eps=config.mlp_eps) for _ in range(config.depth)
        ]
        self.blocks = cast("list[Stream]", nn.ModuleList(blocks))
        self.final = Final(width, volume if config.variance == "none" else 2 * volume)
        init_adaln_zero(self)

    def prepare(self, condition: Condition) -> Condition:
        """Nothing can be done ahead of time; BadInput for a way in that is closed, or another
        scalar."""
        refuse(condition, self.takes, "this transformer")
        if others := condition.scalars.keys() - self.scalar_names:
            raise BadInput(
                f"this transformer takes the scalar label, got {', '.join(sorted(others))}: "
                "leave that out."
            )
        return condition

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
        """``noisy`` (b, channels, h, w), ``time`` (b,) on the scale of 0 … 1000 → (b, channels or
        twice, h, w)."""
        require_latents(noisy, self.config.channels)
        grid, dtype = patch_grid(noisy.shape[2:], self.config.patch), self.patches.weight.dtype
        label = self.prepare(condition).scalars.get("label")
        emb = [embedder(time, label) for embedder in self.embedders]
        x = self.patches(patchify(noisy.to(dtype), self.config.patch))  # (b, n, width)
        x = x + self.positions.stretched(grid).to(x.dtype)
        mask = self_only_mask(None, x.shape[1], 0, x.device) if selection.alone else None
        for index, block in enumerate(self.blocks):
            if index not in selection.skip:
                x = block(x, emb[index % len(emb)], mask if index in selection.alone else None)
        answer = unpatchify(self.final(x, emb[0]), self.config.patch, grid).to(noisy.dtype)
        if self.config.variance == "ignored":
            answer = answer[:, : self.config.channels]
        return -answer if self.config.to_clean else answer


class Embedder(nn.Module):
    """Time and class as one embedding, ready for the modulations: (b,) each → (b, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.number, self.to_clean = config.classes, config.to_clean
        self.time = TimeEmbedding(config.width, inclusive=config.embedders != "published")
        self.classes = nn.Embedding(config.classes + 1, config.width) if config.classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.02)

    def forward(self, time: Tensor, label: Tensor | None) -> Tensor:
        emb: Tensor = self.time(1 - time / 1000 if self.to_clean else time)
        if self.classes is not None:
            label = (
                time.new_full(time.shape, self.number) if label is None else label.to(time.device)
            )
            emb = emb + self.classes(label.long())
        return F.silu(emb)
