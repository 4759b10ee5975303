"""A map of what lies where, brought to the size and the channels of the latents (arXiv 2112.10752, section 4.3.2)."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.types.networks import Condition, Prompt


@dataclass(frozen=True)
class Config:
    """Maps of ``classes``, halved ``halvings`` times to ``channels`` beside the latents; ``size``: the height and width
    that a prompt without a map and without a size is taken for."""

    classes: int = 182
    channels: int = 3
    halvings: int = 2
    bias: bool = False
    size: tuple[int, int] = (256, 256)

    def __post_init__(self) -> None:
        if self.classes < 1 or self.channels < 1 or self.halvings < 0:
            raise BadInput(
                f"segments: wanted classes and channels, and no fewer than 0 halvings, got {self}."
            )

    def build(self) -> "Segments":
        """The map's way to the latents, freshly initialised."""
        return Segments(self)


class Segments(nn.Module):
    """``given["segments"]``, the class (h, w) of each pixel, or how much of each class it is (classes, h, w) →
    ``channels`` (b, channels, h / 2^halvings, w / 2^halvings).

    No map is zeros. BadInput for a map of another shape, or of classes that there are not.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.mapper = nn.Conv2d(config.classes, config.channels, 1, bias=config.bias)

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Nothing: classes are numbers."""

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        return Condition(channels=torch.cat([self.one(prompt) for prompt in prompts]))

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """Zeros for each prompt, or the prompts' own maps if ``only`` leaves the segments alone."""
        told = self.forward(prompts)
        if told.channels is None or (only is not None and "segments" not in only):
            return told
        return Condition(channels=torch.zeros_like(told.channels))

    def one(self, prompt: Prompt) -> Tensor:
        """The channels of one prompt, (1, channels, h, w)."""
        weight = self.mapper.weight
        if "segments" not in prompt.given:
            sides = [
                side >> self.config.halvings
                for side in prompt.given.get("picture_size", self.config.size)
            ]
            return weight.new_zeros(1, self.config.channels, *sides)
        parts = self.parts(torch.as_tensor(prompt.given["segments"]).to(weight.device)).to(
            weight.dtype
        )
        for _ in range(self.config.halvings):
            parts = F.interpolate(parts[None], scale_factor=0.5, mode="bilinear")[0]
        channels: Tensor = self.mapper(parts[None])
        return channels

    def parts(self, given: Tensor) -> Tensor:
        """A map as how much of each class a pixel is, (classes, h, w)."""
        classes = self.config.classes
        if given.ndim == 3 and len(given) == classes:
            return given
        if (
            given.ndim != 2
            or given.is_floating_point()
            or given.min() < 0
            or given.max() >= classes
        ):
            raise BadInput(
                f"segments: wanted a map (h, w) of classes from 0 to {classes - 1}, or ({classes}, h, w) of parts, "
                f"got {given.dtype} of shape {tuple(given.shape)}: number the classes so."
            )
        return F.one_hot(given.long(), classes).movedim(-1, 0)
