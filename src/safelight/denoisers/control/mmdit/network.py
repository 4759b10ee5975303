"""The network of the ControlNets for Stable Diffusion 3."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.denoisers.control.mmdit.config import Config
from safelight.denoisers.mmdit.network import Block, MMDiT, prepare
from safelight.errors import BadInput
from safelight.nn.attention import joint_mask
from safelight.nn.control import Encode, encode_picture, require_patch_count
from safelight.nn.embeddings import TimeEmbedding
from safelight.nn.modulation import init_adaln_zero
from safelight.nn.patchify import patch_grid, patchify, require_latents
from safelight.nn.positions import PositionTable
from safelight.nn.streams import Stream
from safelight.types.networks import Condition, Denoiser
from safelight.types.tensors import Images, Latents

CANNY = 1


class ControlNet(nn.Module):
    """Latents, time, a condition and a picture that ``encode_hint`` has seen → a residual for each
    block of the transformer, of which one of ours serves several in turn. It takes ``tokens`` and
    ``vector``, as far as its configuration has them.

    Those without words were taught one of the ``modes``; edges (canny) far out of range, in half
    steps of 255.
    """

    kind: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, network = config, config.network
        width, area = network.width, network.patch**2
        self.patches = nn.Linear(network.channels * area, width) if config.enters else None
        self.positions = PositionTable(network.side, width) if config.enters else None
        self.hint = nn.Linear((network.channels + config.mask) * area, width)
        self.time = TimeEmbedding(width)
        self.vector = nn.Sequential(
            nn.Linear(network.vector_width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.text = nn.Linear(network.text_width, width) if config.words else None
        self.blocks = nn.ModuleList(self.block(index) for index in range(network.depth))
        self.zeros = nn.ModuleList(nn.Linear(width, width) for _ in range(network.depth))
        if config.typed:
            self.register_buffer("kind", torch.zeros(1, dtype=torch.int32))
        init_adaln_zero(self)
        for parameter in (*self.hint.parameters(), *self.zeros.parameters()):
            nn.init.zeros_(parameter)
        ways = {"tokens": config.words, "vector": config.pooled}
        self.takes = frozenset(name for name, is_open in ways.items() if is_open)
        self.projections, self.hint_channels = int(config.words), 3 + config.mask
        self.modes: Mapping[str, int] = (
            {} if config.words else {"blur": 0, "canny": CANNY, "depth": 2}
        )
        self.target: tuple[MMDiT, ...] = ()

    def block(self, index: int) -> nn.Module:
        """One block: patches and words together, or patches alone."""
        network = self.config.network
        if self.config.words:
            return Block(network, index)
        return Stream(
            network.width,
            network.heads,
            int(network.width * network.mlp_ratio),
            qk_norm=network.qk_norm,
        )

    def prepare(self, condition: Condition) -> Condition:
        """Project the text once for all steps, as the transformer does."""
        return condition if self.text is None else prepare(condition, self.text)

    def attach_to(self, denoiser: Denoiser) -> None:
        """BadInput unless it is a transformer as wide, with text as wide; its depth is what
        residuals are made for."""
        network, own = self.config.network, type(denoiser).__name__
        if isinstance(denoiser, MMDiT):
            theirs = denoiser.config
            same = ("channels", "patch", "width", *(["text_width"] if self.config.words else []))
            if all(vars(network)[name] == vars(theirs)[name] for name in same):
                self.target = (denoiser,)
                return
            own = f"one of {theirs.width}, {theirs.channels} and {theirs.text_width}"
        raise BadInput(
            "this ControlNet is for a transformer of Stable Diffusion 3 of width "
            f"{network.width}, for latents of "
            f"{network.channels} channels and texts {network.text_width} wide, not for {own}."
        )

    def encode_hint(
        self, hint: Images, encode: Encode | None = None, mode: int | None = None
    ) -> tuple[Tensor, ...]:
        """What is added to the patches, (b, n, width), of a picture (b, 3, h, w) from 0 to 1, or
        (b, 4, h, w) with 1 where it is to be kept and 0 where not."""
        if hint.ndim != 4 or hint.shape[1] != 3 + self.config.mask:
            wanted = (
                "colours and a mask (transparent: to be painted)" if self.config.mask else "colours"
            )
            raise BadInput(
                f"this control wants a picture of {wanted}, got one of shape {tuple(hint.shape)}."
            )
        if mode is None and self.config.typed:
            mode = int(self.kind)
        images, keep = hint[:, :3], hint[:, 3:].round() if self.config.mask else None
        images = 127.5 * images + 0.5 if mode == CANNY else 2 * images - 1
        images = images if keep is None else torch.where(keep > 0, images, -1)
        latents = encode_picture(images, encode) + self.config.shift
        if keep is not None:
            latents = torch.cat(
                [latents, F.interpolate(keep, size=latents.shape[2:]).to(latents)], dim=1
            )
        return (self.hint(patchify(latents.to(self.hint.weight.dtype), self.config.network.patch)),)

    def forward(
        self, noisy: Latents, time: Tensor, condition: Condition, hint_features: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        condition, config = self.prepare(condition), self.config
        require_latents(noisy, config.network.channels)
        patches, positions = self.first()
        grid = patch_grid(noisy.shape[2:], config.network.patch)
        x = patches(patchify(noisy.to(self.hint.weight.dtype), config.network.patch))
        x = x + positions.middle(grid).to(x.dtype)
        x = x + require_patch_count(hint_features[0], grid)
        vector = (
            condition.vector
            if config.pooled
            else noisy.new_zeros(len(noisy), config.network.vector_width)
        )
        emb = (
            self.time(time) if vector is None else self.time(time) + self.vector(vector.to(x.dtype))
        )
        emb, text, mask, left = F.silu(emb), None, None, list[Tensor]()
        if condition.tokens is not None:
            text = condition.tokens.projected[0].to(x.dtype)
            mask = joint_mask(condition.tokens.mask, x.shape[1])
        for block, zero in zip(self.blocks, self.zeros, strict=True):
            if config.words:
                x, text = block(x, text, emb, mask)
            else:
                x = block(x, emb)
            left.append(zero(x))
        depth = len(self.target[0].blocks) if self.target else len(left)
        return tuple(left[index * len(left) // depth] for index in range(depth))

    def first(self) -> tuple[nn.Linear, PositionTable]:
        """The first layer and the positions: its own, or those of whom it controls."""
        if self.patches is not None and self.positions is not None:
            return self.patches, self.positions
        if not self.target:
            raise BadInput(
                "this ControlNet begins with a layer of the transformer that it controls: put "
                "it beside one."
            )
        return self.target[0].patches, self.target[0].positions
