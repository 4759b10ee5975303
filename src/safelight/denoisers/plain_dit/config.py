"""The configuration of the diffusion transformer as published. Nothing here imports torch."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.denoisers.plain_dit.network import PlainDiT


@dataclass(frozen=True)
class Config:
    """A transformer for latents of ``channels``, with a table of positions for ``side`` × ``side``
    patches; 0 classes close the way in.

    ``variance``: whether the answer has as many channels again, where the variance is ``learned``
    (prediction noise-and-variance) or nothing is (``ignored``: SiT's). ``to_clean``: the network
    takes 1 - t and predicts the velocity towards clean latents, as SiT does. Diffusers' class
    differs in ``mlp_eps``, and in its embedders of time and class: their frequencies are
    ``inclusive``, and where it was trained there, ``each`` block has its own.
    """

    channels: int = 4
    patch: int = 2
    side: int = 16
    classes: int = 0
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    variance: Literal["none", "learned", "ignored"] = "none"
    to_clean: bool = False
    embedders: Literal["published", "inclusive", "each"] = "published"
    mlp_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name == "classes" and value < 0:
                raise BadInput(f"classes must be 0 (closed) or more, not {value}.")
            if name not in ("classes", "variance", "to_clean", "embedders") and value <= 0:
                raise BadInput(f"{name} must be above 0, not {value}.")
        if self.width % self.heads or self.width % 4:
            raise BadInput(
                f"a width of {self.width} cannot be shared by {self.heads} heads and 4 waves: "
                "take another."
            )
        if self.to_clean and self.variance == "learned":
            raise BadInput(
                "a velocity has no learned variance: take variance none, or ignored if a file "
                "has its place."
            )

    def build(self) -> "PlainDiT":
        """The network, freshly initialised: its answer is zero everywhere."""
        from safelight.denoisers.plain_dit.network import PlainDiT

        return PlainDiT(self)
