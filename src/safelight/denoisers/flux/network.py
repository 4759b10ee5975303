"""The network of the FLUX transformers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import NamedTuple, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.denoisers.flux.blocks import (
    DoubleStreamBlock,
    SingleStreamBlock,
    controlled,
    heard_by,
)
from safelight.denoisers.flux.config import Config
from safelight.diffusion.condition import refuse
from safelight.errors import BadInput
from safelight.nn.attention import Context, joint_mask, self_only_mask
from safelight.nn.blocks import ALL_BLOCKS, BlockSelection
from safelight.nn.embeddings import sinusoidal
from safelight.nn.modulation import Final, Modulation, init_adaln_zero
from safelight.nn.patchify import patch_grid, require_latents
from safelight.nn.positions import PairRotation, grid_positions, pair_rotation
from safelight.types.networks import Condition, Network
from safelight.types.shapes import Shape
from safelight.types.tensors import Latents

WAVES = 256
"""How many sinusoids embed time and guidance."""


class Begun(NamedTuple):
    """The inputs of the first block: both sequences, the embedding, the rotary embedding and the
    attention mask."""

    image: Tensor  # (b, n, width): the picture's patches, then those of the references
    text: Tensor  # (b, words, width)
    emb: Tensor  # (b, width)
    rope: PairRotation
    mask: Tensor | None  # (b, words + n)
    grid: Shape  # of the picture's own patches


class Flux(nn.Module):
    """Noisy latents (b, channels, h, w), time (b,) and a condition → an answer of the latents'
    shape.

    It takes ``tokens``, ``references`` (b, channels, h', w') of any sizes, ``vector`` and
    ``channels`` if they have a width, and the scalar ``guidance`` if it was distilled to take one;
    left out, that is 1: none. The patches attend to ``streams`` in each double block, with the keys
    and values that an adapter made for it. ``residuals``, (b, n, width) each, are added to the
    picture's own patches after each block in turn, the double ones first; if they are fewer, the
    last blocks get none. Any other way in, and a size that the patch does not divide, is BadInput.
    Without ``ends`` it has no last layer and only ``begin`` is of use: a branch's trunk.
    """

    first = "patches.weight"

    def __init__(self, config: Config, ends: bool = True) -> None:
        super().__init__()
        self.config = config
        self.size_multiple = config.patch
        bias, area = config.generation == 1, config.patch**2
        self.patches = nn.Linear(
            (config.channels + config.extra_channels) * area, config.width, bias
        )
        self.text = nn.Linear(config.text_width, config.width, bias)
        self.time = heard_by(WAVES, config.width, bias)
        self.guidance = heard_by(WAVES, config.width, bias) if config.guidance else None
        self.vector = (
            heard_by(config.vector_width, config.width, bias) if config.vector_width else None
        )
        shared = config.generation == 2
        self.shared_image = Modulation(config.width, 6, bias) if shared else None
        self.shared_text = Modulation(config.width, 6, bias) if shared else None
        self.shared_single = Modulation(config.width, 3, bias) if shared else None
        self.double_blocks = cast(
            "list[DoubleStreamBlock]",
            nn.ModuleList(DoubleStreamBlock(config) for _ in range(config.double)),
        )
        self.single_blocks = cast(
            "list[SingleStreamBlock]",
            nn.ModuleList(SingleStreamBlock(config) for _ in range(config.single)),
        )
        self.final = Final(config.width, config.channels * area, bias) if ends else None
        self.scalar_names = frozenset({"guidance"} if config.guidance else ())
        ways = {
            "vector": config.vector_width,
            "channels": config.extra_channels,
            "scalars": self.scalar_names,
        }
        self.takes = frozenset(
            {
                "tokens",
                "references",
                "residuals",
                "streams",
                *(name for name, is_open in ways.items() if is_open),
            }
        )
        init_adaln_zero(self)

    def prepare(self, condition: Condition) -> Condition:
        """Project the text once for all steps: ``tokens.projected`` is the one tensor (b, n, width)
        that enters the sequence. A condition that is prepared already is returned as it is."""
        refuse(condition, self.takes, "this FLUX")
        if unknown := sorted(set(condition.scalars) - self.scalar_names):
            raise BadInput(
                f"this FLUX takes the scalars {sorted(self.scalar_names)}, not {unknown}: leave "
                "those out."
            )
        if any(len(one.projected) != 2 * len(self.double_blocks) for one in condition.streams):
            raise BadInput(
                "this FLUX takes streams with the keys and values that an adapter made for it: "
                "apply one."
            )
        tokens = condition.tokens
        if tokens is None or tokens.projected:
            return condition
        return replace(
            condition, tokens=replace(tokens, projected=(self.text(self.cast(tokens.values)),))
        )

    def sees(self, columns: int) -> bool:
        """Whether the first layer may have so many columns: those of the latents, and of whole
        channels beside them."""
        area = self.config.patch**2
        return columns % area == 0 and columns >= self.config.channels * area

    def widen(self, columns: int) -> None:
        """Give the first layer so many columns, the further ones 0, for further ``channels``; or
        take them away again.

        It is how a control LoRA shows the network a picture.
        """
        old = self.patches.weight
        if columns != old.shape[1]:
            wide = F.pad(old.detach(), (0, columns - old.shape[1]))  # or narrower
            self.patches.weight, self.patches.in_features = (
                nn.Parameter(wide, old.requires_grad),
                columns,
            )
            further = columns // self.config.patch**2 - self.config.channels
            self.config = replace(self.config, extra_channels=further)
            self.takes = self.takes - {"channels"} | ({"channels"} if further else set())

    def variant(self, skip_blocks: Sequence[int], self_only_blocks: Sequence[int]) -> Network:
        """This network without the blocks ``skip_blocks``, and with patches that see only
        themselves and the text in those ``self_only_blocks``; blocks are counted through, the
        double ones first."""
        return partial(
            self,
            selection=BlockSelection.of(
                skip_blocks, self_only_blocks, len(self.double_blocks) + len(self.single_blocks)
            ),
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
        assert self.final is not None
        condition = self.prepare(condition)
        image, text, emb, rope, mask, grid = self.begin(noisy, time, condition)
        modulations = [
            emb if one is None else one(emb) for one in (self.shared_image, self.shared_text)
        ]
        ahead, whole = text.shape[1], text.shape[1] + image.shape[1]
        only_self = self_only_mask(mask, whole, ahead, image.device) if selection.alone else None
        for index, block in enumerate(self.double_blocks):
            if index not in selection.skip:
                made = [
                    (one.projected[2 * index : 2 * index + 2], one.mask)
                    for one in condition.streams
                ]
                further = [Context(keys, values, seen) for (keys, values), seen in made]
                image, text = block(
                    image,
                    text,
                    *modulations,
                    rope,
                    only_self if index in selection.alone else mask,
                    further,
                )
            image = controlled(image, condition.residuals[index : index + 1], 0)
        x = torch.cat([text, image], dim=1)  # (b, words + n, width)
        modulation_single = emb if self.shared_single is None else self.shared_single(emb)
        for index, layer in enumerate(self.single_blocks, len(self.double_blocks)):
            if index not in selection.skip:
                x = layer(
                    x, modulation_single, rope, only_self if index in selection.alone else mask
                )
            x = controlled(x, condition.residuals[index : index + 1], ahead)
        own = x[:, ahead : ahead + prod(grid)]
        return self.unpack(self.final(own, emb), grid).to(noisy.dtype)

    def begin(self, noisy: Latents, time: Tensor, condition: Condition) -> Begun:
        """What the blocks start from, of a condition that is prepared."""
        pictures = (noisy, *condition.references)
        for one in pictures:
            require_latents(one, self.config.channels)
        grids = [patch_grid(one.shape[2:], self.config.patch) for one in pictures]
        joined = [
            self.join(noisy, condition.channels),
            *(self.join(one, None) for one in condition.references),
        ]
        image = self.patches(torch.cat([self.pack(one) for one in joined], dim=1))
        text, mask = image[:, :0], None
        if condition.tokens is not None:
            text = condition.tokens.projected[0]
            mask = joint_mask(condition.tokens.mask, image.shape[1])
        rope = pair_rotation(
            self.places(text.shape[1], grids, image.device), self.config.axes, self.base
        )
        return Begun(image, text, self.embed(time, condition), rope, mask, grids[0])

    @property
    def base(self) -> float:
        """The inverse of the slowest frequency, nearly."""
        return 10_000.0 if self.config.generation == 1 else 2_000.0

    def cast(self, x: Tensor) -> Tensor:
        """In the precision of the parameters."""
        return x.to(self.patches.weight.dtype)

    def join(self, latents: Latents, channels: Float[Tensor, "b extra *space"] | None) -> Tensor:
        """The latents and whatever is concatenated to them."""
        if self.config.extra_channels == 0:
            return self.cast(latents)
        if channels is None:
            channels = latents.new_zeros(
                len(latents), self.config.extra_channels, *latents.shape[2:]
            )
        return self.cast(torch.cat([latents, channels.to(latents.dtype)], dim=1))

    def pack(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, n, c · patch²), row by row: the channel outermost, as FLUX's latents
        were packed."""
        return F.pixel_unshuffle(x, self.config.patch).flatten(2).transpose(1, 2)

    def unpack(self, x: Tensor, grid: Shape) -> Tensor:
        """The inverse of ``pack``."""
        rows, columns = grid
        return F.pixel_shuffle(
            rearrange(x, "b (h w) c -> b c h w", h=rows, w=columns), self.config.patch
        )

    def embed(self, time: Tensor, condition: Condition) -> Tensor:
        """Time, guidance and vector as one embedding (b, width), ready for the modulations."""
        emb: Tensor = self.time(self.cast(sinusoidal(time, WAVES)))
        if self.guidance is not None:
            scale = condition.scalars.get("guidance", torch.ones_like(time))
            emb = emb + self.guidance(self.cast(sinusoidal(1000 * scale.float(), WAVES)))
        if self.vector is not None and condition.vector is not None:
            emb = emb + self.vector(self.cast(condition.vector))
        return F.silu(emb)

    def places(self, ahead: int, grids: Sequence[Shape], device: torch.device) -> Tensor:
        """Where each token lies, (words + n, axes): the number of its picture, row, column and, if
        it has one, word.

        The picture that is made is number 0; a reference is one further, in generation 2 ten
        further. The words lie at 0, in generation 2 one after another on an axis of their own.
        """
        axes, apart = len(self.config.axes), 1 if self.config.generation == 1 else 10
        words = torch.zeros(ahead, axes, device=device)
        if self.config.generation == 2:
            words[:, -1] = torch.arange(ahead, device=device)
        places = [words]
        for number, grid in enumerate(grids):
            rows = F.pad(grid_positions(grid, device).float(), (1, axes - 3))  # (n, axes)
            rows[:, 0] = number * apart
            places.append(rows)
        return torch.cat(places)
