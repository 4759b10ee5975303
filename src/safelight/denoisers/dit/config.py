"""The configuration of the diffusion transformer. Nothing here imports torch."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from safelight.errors import BadInput
from safelight.nn.sizes import split

if TYPE_CHECKING:
    from safelight.denoisers.dit.network import DiT


@dataclass(frozen=True)
class Config:
    """A diffusion transformer for latents of ``channels`` on ``axes`` spatial axes; a width of 0
    closes a way in."""

    channels: int = 4
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    axes: int = 2
    text: Literal["none", "cross", "joint"] = "cross"
    text_width: int = 256
    vector_width: int = 0
    extra_channels: int = 0
    modulation: Literal["block", "shared"] = "block"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in ("vector_width", "extra_channels") and value < 0:
                raise BadInput(f"{name} must be 0 (closed) or more, not {value}.")
            if name not in ("vector_width", "extra_channels", "text", "modulation") and value <= 0:
                raise BadInput(f"{name} must be above 0, not {value}.")
        if self.width % (2 * self.heads):
            raise BadInput(
                f"a width of {self.width} does not give {self.heads} heads an even number of "
                "channels each."
            )
        split(self.width // self.heads // 2, self.axes + (self.text == "joint"))

    def build(self) -> "DiT":
        """The network, freshly initialised: its answer is zero everywhere."""
        from safelight.denoisers.dit.network import DiT

        return DiT(self)
