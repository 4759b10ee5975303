"""The configuration of the ControlNets for FLUX.1. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from safelight.denoisers.flux import config as flux_config
from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.denoisers.control.flux.network import ControlNet


NETWORK = flux_config.Config(double=5, single=10, guidance=False)


@dataclass(frozen=True)
class Config:
    """A branch for transformers of the shape ``network``, whose ``double`` and ``single`` are the
    branch's own.

    ``modes``: how many kinds of picture it tells apart, 0 for one that knows one kind. ``hints``:
    the widths of the convolutions that see a picture's pixels, each after the first at half the
    size; none for one that sees latents.
    """

    network: flux_config.Config = field(default_factory=lambda: NETWORK)
    modes: int = 0
    hints: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.modes < 0 or any(one < 1 for one in self.hints) or self.network.double < 1:
            raise BadInput(
                "control of FLUX wants a double block or more, modes of 0 or more, and hints "
                "that each "
                f"have a width, got {self}."
            )
        if self.network.generation != 1 or self.network.extra_channels:
            raise BadInput(
                "control of FLUX is for its first generation, of latents without further channels."
            )

    def build(self) -> "ControlNet":
        """The branch, freshly initialised: its residuals are zero everywhere."""
        from safelight.denoisers.control.flux.network import ControlNet

        return ControlNet(self)
