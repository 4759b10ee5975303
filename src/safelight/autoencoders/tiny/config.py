"""The configuration of the tiny autoencoder. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.autoencoders.tiny.network import Tiny


@dataclass(frozen=True)
class Config:
    latent_channels: int = 4
    width: int = 64
    blocks: int = 3  # a level
    levels: int = 3  # each halves the size
    pool: bool = (
        False  # the blocks at the lowest size also norm groups of channels over the image (taef2)
    )

    def __post_init__(self) -> None:
        if min(self.latent_channels, self.width, self.blocks, self.levels) < 1:
            raise BadInput(f"tiny: every number wants to be at least 1, got {self}.")

    def build(self) -> "Tiny":
        from safelight.autoencoders.tiny.network import Tiny

        return Tiny(self)
