"""What networks take and give: conditions, prompts, encodings, and the protocols of the parts of a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents


@dataclass(frozen=True, eq=False)
class Tokens:
    """A sequence that is attended to: ``values`` (b, n, d) and ``mask`` (b, n), true where a token counts.

    ``projected`` is what a denoiser's ``prepare`` made of the values once for all steps, (b, n, …) each, so that it
    is padded and stacked like them; only the denoiser that made it reads it.
    """

    values: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]
    projected: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Condition:
    """What a denoiser is told, named by how it enters the network. None or empty is a closed way in."""

    tokens: Tokens | None = None  # attended to
    streams: tuple[
        Tokens, ...
    ] = ()  # further tokens with keys and values of their own (image prompts, boxes)
    vector: Float[Tensor, "b d"] | None = None  # added to the embedding of time
    scalars: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # heard like time: a guidance scale, a second time
    channels: Float[Tensor, "b extra *space"] | None = None  # concatenated to the noisy latents
    references: tuple[Latents, ...] = ()  # joined to the sequence of latents
    residuals: tuple[
        Tensor, ...
    ] = ()  # added inside; their order is documented by the denoiser that takes them


@dataclass(frozen=True, eq=False)
class Encoding:
    """What an autoencoder makes of images: the mean of the latents and, if it has a spread, their deviation."""

    mean: Latents
    deviation: Latents | None = None

    def mode(self) -> Latents:
        """The likeliest latents."""
        return self.mean

    def sample(self, noise: Latents) -> Latents:
        """Latents drawn from the encoding with standard normal ``noise`` of their shape."""
        return self.mean if self.deviation is None else self.mean + self.deviation * noise


@dataclass(frozen=True, eq=False)
class Prompt:
    """What was asked for one picture: a text, and whatever else a conditioner declares to read (labels, images)."""

    text: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


Network: TypeAlias = Callable[[Latents, Tensor, Condition], Tensor]
"""What a process calls: a denoiser, or anything wrapped around one (control)."""


@runtime_checkable
class Autoencoder(Protocol):
    """Images ⇄ latents. It owns scale and shift: its latents have about zero mean and unit variance.

    ``factor``: a latent's side in pixels. ``costs``: what training asks of an encoding besides giving the images
    back, each by its name in the field (``kl``, ``quantisation``), as (b,). ``last``: the weight of the decoder's last
    layer, by which adversarial training balances its terms; None if there is none.
    """

    factor: int

    @property
    def last(self) -> Tensor | None: ...

    def encode(self, images: Images) -> Encoding: ...

    def decode(self, latents: Latents) -> Images: ...

    def costs(self, encoding: Encoding) -> Mapping[str, Tensor]: ...

    def latent_shape(self, image_shape: Shape) -> Shape: ...


@runtime_checkable
class Features(Protocol):
    """A network that others trained to see: for the perceptual loss and for distances between sets of pictures.

    ``name`` is what results are reported by, ``least`` the smallest side in pixels, ``heads`` a weight for each
    channel of each map where such were learned (LPIPS), else empty. It never trains, but gradients reach the images.
    ``maps`` gives features of several depths, (b, c, h, w) each; ``vector`` pooled ones (b, d) at its native size.
    """

    @property
    def name(self) -> str: ...

    @property
    def least(self) -> int: ...

    @property
    def heads(self) -> tuple[Tensor, ...]: ...

    def maps(self, images: Images) -> tuple[Tensor, ...]: ...

    def vector(self, images: Images) -> Tensor: ...


@runtime_checkable
class Discrete(Autoencoder, Protocol):
    """An autoencoder whose latents are rounded to the nearest of ``codes`` vectors before they are decoded.

    ``settle``: once an update, after its optimiser step, what a codebook keeps of the batches that it saw; ``total``
    sums a tensor over processes, and (seed, update) key what it draws.
    """

    codes: int

    def indices(self, latents: Latents) -> Int[Tensor, " b *space"]: ...

    def lookup(self, indices: Int[Tensor, " b *space"]) -> Latents: ...

    def settle(self, seed: int, update: int, total: Callable[[Tensor], Tensor] = ...) -> None: ...


@runtime_checkable
class Denoiser(Protocol):
    """The network; it knows nothing of schedules. ``prepare`` does once a prompt what does not depend on time.

    ``grain``: the sides of its latents are multiples of it.
    """

    grain: int

    def __call__(self, noisy: Latents, time: Tensor, condition: Condition) -> Tensor: ...

    def prepare(self, condition: Condition) -> Condition: ...


@runtime_checkable
class Skippable(Protocol):
    """A denoiser that also answers in part: see ``Pass``. Raises BadInput for a block that it does not have."""

    def without(self, skip: Sequence[int], alone: Sequence[int]) -> Network: ...


@runtime_checkable
class Hearing(Protocol):
    """A network that hears scalars, by the names that it declares."""

    @property
    def hears(self) -> Collection[str]: ...


@runtime_checkable
class Conditioner(Protocol):
    """Prompts → a condition of the same batch."""

    def __call__(self, prompts: Sequence[Prompt]) -> Condition: ...

    def nothing(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition: ...

    def learn(self, prompts: Iterable[Prompt]) -> None: ...


@runtime_checkable
class Bounded(Conditioner, Protocol):
    """A conditioner that reads so much of a text and no more: ``unread`` says in sentences what it leaves out."""

    def unread(self, prompt: Prompt) -> Sequence[str]: ...


@runtime_checkable
class Weighing(Conditioner, Protocol):
    """A conditioner that reads brackets where ``given["emphasis"]`` asks for it: weights, and what changes with the
    steps. ``at`` is the prompt that holds at a step, the same object if it never changes; ``parts`` are the prompts
    that a text composes, each with its weight."""

    def at(self, prompt: Prompt, step: int, steps: int) -> Prompt: ...

    def parts(self, prompt: Prompt) -> Sequence[tuple[Prompt, float]]: ...


@runtime_checkable
class Wordy(Conditioner, Protocol):
    """A conditioner that reads learned words: a name stands for vectors (n, width), one tensor for each width.

    ``check_word`` and ``add_word`` raise BadInput if they are for another model, ``remove_word`` if there is none.
    """

    def check_word(self, name: str, vectors: Sequence[Tensor]) -> None: ...

    def add_word(self, name: str, vectors: Sequence[Tensor]) -> None: ...

    def remove_word(self, name: str) -> None: ...
