"""The configuration of the ControlNet for U-Nets. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from safelight.denoisers.unet import config as unet_config
from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.denoisers.control.unet.network import ControlNet


@dataclass(frozen=True)
class Config:
    """A branch for U-Nets of the shape ``network``; each width of ``hints`` after the first halves
    the picture's size.

    ``hint_channels``: the picture's colours. It is as many times the latents' size as the halvings
    come to.
    """

    network: unet_config.Config = field(default_factory=unet_config.Config)
    hint_channels: int = 3
    hints: tuple[int, ...] = (16, 32, 96, 256)

    def __post_init__(self) -> None:
        if min(self.hint_channels, *self.hints, len(self.hints)) < 1:
            raise BadInput(
                "control wants a picture with channels, and hints that each have a width, got "
                f"{self}."
            )

    def build(self) -> "ControlNet":
        """The branch, freshly initialised: its residuals are zero everywhere."""
        from safelight.denoisers.control.unet.network import ControlNet

        return ControlNet(self)
