"""The configuration of this text model. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.nn.text_models.decoder.network import Decoder


@dataclass(frozen=True)
class Config:
    """What FLUX.2 dev uses of Mistral Small 3.

    The states after the blocks ``output_layers``, counted from 1, are the output; blocks behind the
    last of them are left out. ``kv_heads``: heads of keys and values, fewer than those of queries.
    ``rope_theta``: the base of the rotary frequencies.
    """

    length: ClassVar[int] = 0
    projection: ClassVar[int] = 0

    width: int = 5120
    output_layers: tuple[int, ...] = (10, 20, 30)
    heads: int = 32
    kv_heads: int = 8
    head_width: int = 128
    hidden: int = 32_768
    vocabulary: int = 131_072
    qk_norm: bool = False
    rope_theta: float = 1e9
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if (
            not self.output_layers
            or min(self.output_layers) < 1
            or list(self.output_layers) != sorted(set(self.output_layers))
        ):
            raise BadInput(
                f"output_layers must be increasing block numbers from 1, not {self.output_layers}."
            )
        if (
            min(self.width, self.kv_heads, self.head_width, self.hidden) < 1
            or self.head_width % 2
            or self.heads % self.kv_heads
        ):
            raise BadInput(
                f"head_width must be even, and heads a multiple of kv_heads, got {self}."
            )

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return self.output_layers[-1]

    def build(self) -> "Decoder":
        """The blocks, freshly initialised."""
        from safelight.nn.text_models.decoder.network import Decoder

        return Decoder(self)
