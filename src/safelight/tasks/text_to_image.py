"""A picture from a prompt."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from safelight.errors import BadInput
from safelight.task import Start

if TYPE_CHECKING:
    from safelight.model import CompleteModel
    from safelight.types.diffusion import NoiseSource

LONGEST_SIDE = 8192


@dataclass(frozen=True)
class TextToImage:
    """Make a picture from a prompt. For a class-conditional model the prompt is a class's name."""

    verb: ClassVar[str] = "generate"
    example: ClassVar[str] = '"fox, flat emoji" -o fox.png --seed 3'

    prompt: str = field(
        default="", metadata={"help": "What the picture shows. If it is empty, the model chooses."}
    )
    negative: str = field(
        default="", metadata={"help": "What the picture should not show; needs guidance."}
    )
    width: int | None = field(
        default=None, metadata={"help": "In pixels. Default: the size that the model is made for."}
    )
    height: int | None = field(
        default=None, metadata={"help": "In pixels. Default: the size that the model is made for."}
    )

    def __post_init__(self) -> None:
        for name, side in {"width": self.width, "height": self.height}.items():
            if side is not None and not 1 <= side <= LONGEST_SIDE:
                raise BadInput(f"{name}: wanted 1 to {LONGEST_SIDE} pixels, got {side}.")

    def start(self, model: "CompleteModel", noise: "NoiseSource", count: int) -> Start:
        """Pure noise of the latents' shape. BadInput if the autoencoder cannot make the size."""
        from safelight.types.networks import Prompt

        height, width = self.height or model.card.size[0], self.width or model.card.size[1]
        shape = model.latent_shape(count, (height, width))
        return Start(noise(shape), [Prompt(self.prompt)] * count, [Prompt(self.negative)] * count)
