"""The configuration of the ControlNets for Stable Diffusion 3. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from safelight.denoisers.mmdit import config as mmdit_config

if TYPE_CHECKING:
    from safelight.denoisers.control.mmdit.network import ControlNet


@dataclass(frozen=True)
class Config:
    """A branch for transformers of the shape ``network``, whose depth is the branch's own.

    ``words``: whether it takes the text. ``enters``: whether it has a first layer and positions of
    its own. ``pooled``: whether it takes the pooled vector, else zeros in its place. ``mask``:
    whether its picture says what of it to keep. ``shift`` is added to the latents of its picture:
    some were taught without the autoencoder's. ``typed``: whether its file says which of the modes
    it wants.
    """

    network: mmdit_config.Config = field(default_factory=mmdit_config.Config)
    words: bool = True
    enters: bool = True
    pooled: bool = True
    mask: bool = False
    shift: float = 0.0
    typed: bool = False

    def build(self) -> "ControlNet":
        """The branch, freshly initialised: its residuals are zero everywhere."""
        from safelight.denoisers.control.mmdit.network import ControlNet

        return ControlNet(self)
