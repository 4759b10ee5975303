"""The configuration of the VQ autoencoder. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from safelight.errors import BadInput
from safelight.nn.configs import Codes, Pyramid

if TYPE_CHECKING:
    from safelight.autoencoders.vq.network import VQ


@dataclass(frozen=True)
class Config:
    """The f4 shape of the paper with the defaults. Each level after the first halves the size.

    ``beta`` weighs the pull of latents to their codes against that of codes to their latents;
    ``legacy`` puts it on the latter instead, as the public zoo was trained (taming-transformers,
    ``VectorQuantizer2(legacy=True)``).
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2  # a level in the encoder; the decoder has one more
    latent_channels: int = 3  # of a code
    hidden_channels: int = (
        0  # what 1×1 convolutions project codes from and to (arXiv 2110.04627); 0: as of a code
    )
    channels: int = 3
    groups: int = 32  # of the group norms
    attention: tuple[
        int, ...
    ] = ()  # levels that attend after every block, by their factor (1, 2, 4, …)
    middle: bool = True  # attention in the middle
    codebook: Codes = field(default_factory=Codes)
    beta: float = 0.25
    legacy: bool = False

    def __post_init__(self) -> None:
        self.pyramid.require("vq", self.latent_channels, self.hidden_channels + 1)
        if self.beta < 0:
            raise BadInput(f"vq: wanted beta ≥ 0, got {self.beta}.")

    @property
    def pyramid(self) -> Pyramid:
        """The shape of both halves."""
        body = (self.width, self.multipliers, self.blocks, self.channels, self.groups)
        return Pyramid(*body, attention=self.attention, middle=self.middle)

    def build(self) -> "VQ":
        from safelight.autoencoders.vq.network import VQ

        return VQ(self)
