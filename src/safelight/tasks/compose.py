"""A picture from several prompts, by weight or each in its own region."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from safelight.errors import BadInput, unknown
from safelight.task import Start, WeightedPrompts
from safelight.tasks.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.model import CompleteModel
    from safelight.types.diffusion import NoiseSource
    from safelight.types.shapes import Shape

PLACES = ("everywhere", "columns", "rows")


@dataclass(frozen=True)
class Compose:
    """Make one picture from several prompts: blended everywhere, or each in its own region."""

    verb: ClassVar[str] = "compose"
    example: ClassVar[str] = (
        '"red heart, flat emoji | blue book, flat emoji" --place columns -o both.png'
    )

    prompts: str = field(default="", metadata={"help": "The prompts, with | between them."})
    place: str = field(
        default="everywhere",
        metadata={
            "help": "Where each prompt applies: everywhere, or side by side in columns or rows."
        },
    )
    weights: str = field(
        default="",
        metadata={
            "help": "The weight of each prompt: 1,0.5. A negative weight steers away from it."
        },
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
        self._text_to_image()
        if self.place not in PLACES:
            raise unknown("place", self.place, PLACES)
        prompts, weights = len(self._prompts()), len(self._weights())
        if weights != prompts:
            raise BadInput(
                f"weights: wanted one for each of the {prompts} prompts, got {weights}: "
                f"{self.weights!r}."
            )

    def start(self, model: "CompleteModel", noise: "NoiseSource", count: int) -> Start:
        """As for one prompt, with the weight and the region of each."""
        from safelight.types.networks import Prompt

        start = self._text_to_image().start(model, noise, count)
        shape, prompts = tuple(start.latents.shape), self._prompts()
        weighted = [
            WeightedPrompts(
                [Prompt(text)] * count, weight, self._region(index, len(prompts), shape)
            )
            for index, (text, weight) in enumerate(zip(prompts, self._weights(), strict=True))
        ]
        return replace(start, prompts=weighted[0].prompts, weighted_prompts=weighted)

    def _text_to_image(self) -> TextToImage:
        """The task with one prompt, which checks what both have."""
        return TextToImage(self.prompts, self.negative, self.width, self.height)

    def _prompts(self) -> list[str]:
        return [text.strip() for text in self.prompts.split("|")]

    def _weights(self) -> list[float]:
        if not self.weights:
            return [1.0] * len(self._prompts())
        try:
            return [float(text) for text in self.weights.split(",")]
        except ValueError:
            raise BadInput(
                f"weights: wanted numbers such as 1,0.5, got {self.weights!r}."
            ) from None

    def _region(self, index: int, count: int, shape: "Shape") -> "Tensor | None":
        """Stripe ``index`` of ``count`` in the latents; it fades over a quarter of a stripe."""
        import torch

        if self.place == "everywhere" or count == 1:
            return None
        side = shape[-1] if self.place == "columns" else shape[-2]
        position = (torch.arange(side) + 0.5) * count / side  # counted in stripes
        rising, falling = torch.ones(side), torch.ones(side)
        if index > 0:
            rising = ((position - index) * 4 + 0.5).clamp(0, 1)
        if index < count - 1:
            falling = ((index + 1 - position) * 4 + 0.5).clamp(0, 1)
        stripe = torch.minimum(rising, falling)
        return stripe if self.place == "columns" else stripe[:, None]
