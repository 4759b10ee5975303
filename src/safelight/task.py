"""What a task is: a frozen dataclass whose ``start`` says where sampling begins and how it ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from safelight.model import CompleteModel
    from safelight.types.diffusion import Denoise, NoiseSource
    from safelight.types.networks import Prompt
    from safelight.types.tensors import Latents


def _same_denoise(denoise: "Denoise") -> "Denoise":
    return denoise


def _same_pictures(pictures: "list[Image.Image]") -> "list[Image.Image]":
    return pictures


@dataclass(frozen=True, eq=False)
class WeightedPrompts:
    """One of several prompts that a picture follows: the prompt for each picture, and its weight.

    ``region`` is where in the latents it applies; None is everywhere.
    """

    prompts: "Sequence[Prompt]"
    weight: float = 1.0
    region: "Tensor | None" = None


@dataclass(frozen=True, eq=False)
class Start:
    """Where a run begins: ``latents``, and a prompt and a negative prompt for each picture.

    If ``begin`` = 1 the latents are standard normal, and the pipeline scales them to the noise
    level where the spacing begins; below 1 they are noisy latents at that time. If there are
    ``weighted_prompts``, the pictures follow all of them instead of ``prompts``, for which
    negatives are made all the same. ``wrap`` changes the denoiser function (masks, tiles);
    ``finish`` changes the 8-bit pictures, so that pixels that are kept stay exact.
    """

    latents: "Latents"
    prompts: "Sequence[Prompt]"
    negatives: "Sequence[Prompt]"
    begin: float = 1.0
    wrap: "Callable[[Denoise], Denoise]" = _same_denoise
    finish: "Callable[[list[Image.Image]], list[Image.Image]]" = _same_pictures
    weighted_prompts: "Sequence[WeightedPrompts]" = ()


class Task(Protocol):
    """A request, which is also the options of a command and the body of an HTTP call."""

    def start(self, model: "CompleteModel", noise: "NoiseSource", count: int) -> Start: ...
