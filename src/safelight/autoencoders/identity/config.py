"""The configuration of the identity autoencoder. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.autoencoders.identity.network import Identity


@dataclass(frozen=True)
class Config:
    channels: int = 3

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise BadInput(f"identity: every number wants to be at least 1, got {self}.")

    def build(self) -> "Identity":
        from safelight.autoencoders.identity.network import Identity

        return Identity(self)
