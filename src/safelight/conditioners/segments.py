"""Segmentation maps as channels beside the latents (arXiv 2112.10752, section 4.3.2)."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.types.networks import Condition, Prompt


@dataclass(frozen=True)
class Config:
    """Maps of ``classes``, halved ``halvings`` times, as ``channels`` beside the latents.

    ``size``: the height and width assumed for a prompt that has neither a map nor a size.
    """

    classes: int = 182
    channels: int = 3
    halvings: int = 2
    bias: bool = False
    size: tuple[int, int] = (256, 256)

    def __post_init__(self) -> None:
        if self.classes < 1 or self.channels < 1 or self.halvings < 0:
            raise BadInput(
                f"segments: wanted at least 1 class, 1 channel and 0 halvings, got {self}."
            )

    def build(self) -> "Segments":
        """The projection of maps, freshly initialised."""
        return Segments(self)


class Segments(nn.Module):
    """A segmentation map → ``channels`` (b, channels, h / 2^halvings, w / 2^halvings).

    ``given["segments"]`` is the class of each pixel (h, w), or the share of each class
    (classes, h, w). Without a map the channels are zeros. BadInput for another shape or a class
    that does not exist.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.mapper = nn.Conv2d(config.classes, config.channels, 1, bias=config.bias)

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Nothing to fit: classes are numbers."""

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The channels of the prompts' maps, which must be of one size."""
        return Condition(channels=torch.cat([self._channels(prompt) for prompt in prompts]))

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """Zeros, or the prompts' own maps if ``only`` does not name ``segments``."""
        condition = self.forward(prompts)
        if condition.channels is None or (only is not None and "segments" not in only):
            return condition
        return Condition(channels=torch.zeros_like(condition.channels))

    def _channels(self, prompt: Prompt) -> Tensor:
        """The channels of one prompt, (1, channels, h, w)."""
        weight = self.mapper.weight
        if "segments" not in prompt.given:
            sides = [
                side >> self.config.halvings
                for side in prompt.given.get("picture_size", self.config.size)
            ]
            return weight.new_zeros(1, self.config.channels, *sides)
        segments = torch.as_tensor(prompt.given["segments"]).to(weight.device)
        shares = self.shares(segments).to(weight.dtype)
        for _ in range(self.config.halvings):
            shares = F.interpolate(shares[None], scale_factor=0.5, mode="bilinear")[0]
        channels: Tensor = self.mapper(shares[None])
        return channels

    def shares(self, segments: Tensor) -> Tensor:
        """A map as the share of each class in each pixel, (classes, h, w)."""
        classes = self.config.classes
        if segments.ndim == 3 and len(segments) == classes:
            return segments
        if (
            segments.ndim != 2
            or segments.is_floating_point()
            or segments.min() < 0
            or segments.max() >= classes
        ):
            raise BadInput(
                f"segments: wanted a map (h, w) of classes from 0 to {classes - 1}, or of shares "
                f"({classes}, h, w), got {segments.dtype} of shape {tuple(segments.shape)}: "
                "number the classes so."
            )
        return F.one_hot(segments.long(), classes).movedim(-1, 0)
