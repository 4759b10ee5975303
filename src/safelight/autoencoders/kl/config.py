"""The configuration of the KL autoencoder. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safelight.nn.configs import Pyramid

if TYPE_CHECKING:
    from safelight.autoencoders.kl.network import KL


@dataclass(frozen=True)
class Config:
    """Each multiplier is a level; each level after the first halves the size, so f = 2 ** (levels -
    1)."""

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2  # a level in the encoder; the decoder has one more
    latent_channels: int = 4
    channels: int = 3
    groups: int = 32  # of the group norms
    attention: tuple[
        int, ...
    ] = ()  # levels that attend after every block, by their factor (1, 2, 4, …)
    quant: bool = (
        True  # 1×1 convolutions beside the latents: SD 1, 2, XL have them, SD 3 and FLUX.1 do not
    )
    packed: int = (
        1  # so many latents a side become the channels of one, scaled by a batch norm: 2 in FLUX.2
    )

    def __post_init__(self) -> None:
        self.pyramid.require("kl", self.latent_channels, self.packed)

    @property
    def pyramid(self) -> Pyramid:
        """The shape of both halves."""
        return Pyramid(
            self.width, self.multipliers, self.blocks, self.channels, self.groups, self.attention
        )

    @property
    def packed_channels(self) -> int:
        """The channels of a latent as everyone else meets it."""
        return self.latent_channels * self.packed**2

    def build(self) -> "KL":
        from safelight.autoencoders.kl.network import KL

        return KL(self)
