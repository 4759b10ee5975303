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
class Share:
    """A prompt for each picture with its say beside others: a ``weight``, and ``where`` in the latents it holds."""

    prompts: "Sequence[Prompt]"
    weight: float = 1.0
    where: "Tensor | None" = None


@dataclass(frozen=True, eq=False)
class Start:
    """Where a run begins: ``latents``, a prompt and a negative one for each picture.

    At ``begin`` = 1 the latents are standard normal, and are scaled to the level where the spacing begins; below 1
    they are noisy latents at that time.
    If there are ``shares``, the pictures follow them all instead of ``prompts``, which still say what a negative is
    for. ``wrap`` goes around the waist (masks, tiles); ``finish`` acts on the 8-bit pictures, so that kept pixels stay
    exact.
    """

    latents: "Latents"
    prompts: "Sequence[Prompt]"
    negatives: "Sequence[Prompt]"
    begin: float = 1.0
    wrap: "Callable[[Denoise], Denoise]" = _same_denoise
    finish: "Callable[[list[Image.Image]], list[Image.Image]]" = _same_pictures
    shares: "Sequence[Share]" = ()


class Task(Protocol):
    """A request, which is also the options of a command and the body of an HTTP call."""

    def start(self, model: "CompleteModel", noise: "NoiseSource", count: int) -> Start: ...
