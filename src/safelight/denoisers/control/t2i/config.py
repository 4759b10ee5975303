"""The configuration of the T2I-Adapter. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.denoisers.control.t2i.network import T2IAdapter


@dataclass(frozen=True)
class Config:
    """An adapter of a ``form``: for Stable Diffusion 1 and 2 (``full``, ``light``) or SDXL
    (``xl``).

    ``widths``: of the features, of ``blocks`` residual blocks each; the picture's sides are divided
    by ``factor`` at once. ``ahead``: how many residuals of control the U-Net counts before an
    adapter's, 13, or 10 in SDXL.
    """

    channels: int = 3
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    factor: int = 8
    form: Literal["full", "light", "xl"] = "full"
    ahead: int = 13

    def __post_init__(self) -> None:
        if (
            min(self.channels, self.blocks, self.factor, self.ahead, len(self.widths), *self.widths)
            < 1
        ):
            raise BadInput(f"an adapter's numbers are 1 or more, got {self}.")

    def build(self) -> "T2IAdapter":
        """The adapter, freshly initialised."""
        from safelight.denoisers.control.t2i.network import T2IAdapter

        return T2IAdapter(self)


def widths(config: Config) -> tuple[int, ...]:
    """The width of each feature; a light adapter has one more, as wide as the last."""
    return (*config.widths, config.widths[-1]) if config.form == "light" else config.widths
