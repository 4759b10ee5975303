"""The configuration of the multimodal diffusion transformer. Nothing here imports torch."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.denoisers.mmdit.network import MMDiT


@dataclass(frozen=True)
class Config:
    """A transformer for latents of ``channels``, with text of ``text_width`` and a pooled vector of
    ``vector_width``.

    It has positions for ``side`` × ``side`` patches. ``dual`` are the blocks with a second
    attention among patches.
    """

    channels: int = 16
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    text_width: int = 256
    vector_width: int = 256
    side: int = 64
    qk_norm: bool = True
    dual: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "dual" and name != "qk_norm" and value <= 0:
                raise BadInput(f"{name} must be above 0, not {value}.")
        if self.width % self.heads or self.width % 4:
            raise BadInput(
                f"a width of {self.width} cannot be shared by {self.heads} heads and 4 waves: "
                "take another."
            )
        if any(not 0 <= block < self.depth for block in self.dual):
            raise BadInput(f"dual must name blocks from 0 to {self.depth - 1}, not {self.dual}.")

    def build(self) -> "MMDiT":
        """The network, freshly initialised: its answer is zero everywhere."""
        from safelight.denoisers.mmdit.network import MMDiT

        return MMDiT(self)
