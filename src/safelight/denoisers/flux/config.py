"""The configuration of the FLUX transformers. Nothing here imports torch."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.denoisers.flux.network import Flux


@dataclass(frozen=True)
class Config:
    """FLUX.1-dev with the defaults. A width of 0 closes a way in; ``axes`` are the channels of a
    head that the rotary embedding gives to the picture's number, the row, the column and
    (generation 2) the word's number: their sum is a head's width.

    Generation 2 (FLUX.2) has no biases, gated MLPs, modulations that all blocks share, words with
    places and other frequencies.
    """

    channels: int = 16
    extra_channels: int = (
        0  # 80 in Fill (masked latents, mask), as many as channels in Canny and Depth
    )
    patch: int = 2
    width: int = 3072
    axes: tuple[int, ...] = (16, 56, 56)
    double: int = 19  # blocks with weights of their own for text
    single: int = 38  # blocks of one sequence
    mlp_ratio: float = 4.0
    text_width: int = 4096
    vector_width: int = 768
    guidance: bool = True  # whether it takes a guidance scale: dev does, schnell does not
    generation: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        closable = ("extra_channels", "double", "single", "vector_width")
        for name, value in asdict(self).items():
            if name not in ("axes", "guidance") and value < (
                least := 0 if name in closable else 1e-9
            ):
                raise BadInput(
                    f"{name} must be {'0 or more' if least == 0 else 'above 0'}, not {value}."
                )
        if len(self.axes) != self.generation + 2 or any(one < 2 or one % 2 for one in self.axes):
            raise BadInput(
                f"axes wants {self.generation + 2} even numbers of channels, got {self.axes}."
            )
        if self.width % sum(self.axes):
            raise BadInput(
                f"a width of {self.width} is no multiple of a head's {sum(self.axes)} channels."
            )

    @property
    def heads(self) -> int:
        """How many heads attend."""
        return self.width // sum(self.axes)

    @property
    def hidden(self) -> int:
        """The width within the MLPs."""
        return round(self.width * self.mlp_ratio)

    def build(self) -> "Flux":
        """The network, freshly initialised: its answer is zero everywhere."""
        from safelight.denoisers.flux.network import Flux

        return Flux(self)
