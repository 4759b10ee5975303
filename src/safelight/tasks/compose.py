"""A picture from several prompts, by weight or each in its own region."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from safelight.errors import BadInput, unknown
from safelight.task import Share, Start
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
        self._one()
        if self.place not in PLACES:
            raise unknown("place", self.place, PLACES)
        said, told = len(self._said()), len(self._told())
        if told != said:
            raise BadInput(
                f"weights: wanted one for each of the {said} prompts, got {told}: {self.weights!r}."
            )

    def start(self, model: "CompleteModel", noise: "NoiseSource", count: int) -> Start:
        """As for one prompt, with a share for each."""
        from safelight.types.networks import Prompt

        whole = self._one().start(model, noise, count)
        said = self._said()
        shares = [
            Share(
                [Prompt(text)] * count,
                weight,
                self._where(index, len(said), tuple(whole.latents.shape)),
            )
            for index, (text, weight) in enumerate(zip(said, self._told(), strict=True))
        ]
        return replace(whole, prompts=shares[0].prompts, shares=shares)

    def _one(self) -> TextToImage:
        """The task without its shares, which checks what both have."""
        return TextToImage(self.prompts, self.negative, self.width, self.height)

    def _said(self) -> list[str]:
        return [text.strip() for text in self.prompts.split("|")]

    def _told(self) -> list[float]:
        try:
            return (
                [float(text) for text in self.weights.split(",")]
                if self.weights
                else [1.0] * len(self._said())
            )
        except ValueError:
            raise BadInput(
                f"weights: wanted numbers such as 1,0.5, got {self.weights!r}."
            ) from None

    def _where(self, index: int, count: int, shape: "Shape") -> "Tensor | None":
        """One of ``count`` stripes of the latents, each fading into the next over a quarter of a stripe."""
        import torch

        if self.place == "everywhere" or count == 1:
            return None
        side = shape[-1] if self.place == "columns" else shape[-2]
        here = (torch.arange(side) + 0.5) * count / side  # counted in stripes
        left = ((here - index) * 4 + 0.5).clamp(0, 1) if index > 0 else torch.ones(side)
        right = (
            ((index + 1 - here) * 4 + 0.5).clamp(0, 1) if index < count - 1 else torch.ones(side)
        )
        stripe = torch.minimum(left, right)
        return stripe if self.place == "columns" else stripe[:, None]
