"""What networks take and give: conditions, prompts, encodings, and the protocols of the parts of a
model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from safelight.errors import BadInput
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents


@dataclass(frozen=True, eq=False)
class Tokens:
    """A sequence that is attended to: ``values`` (b, n, d) and ``mask`` (b, n), true for real
    tokens.

    ``projected`` is what a denoiser's ``prepare`` computed of the values once for all steps, (b, n,
    …) each, so that it is padded and stacked like them. Only that denoiser reads it.
    """

    values: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]
    projected: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Condition:
    """What a denoiser is conditioned on, by how it enters the network; None or empty if not at all.

    - ``tokens`` are attended to.
    - ``streams`` are further tokens with keys and values of their own (image prompts, boxes).
    - ``vector`` is added to the timestep embedding.
    - ``scalars`` are embedded like the timestep: a guidance scale, a second time.
    - ``channels`` are concatenated to the noisy latents.
    - ``references`` are joined to the sequence of latents.
    - ``residuals`` are added inside the network, in an order that the denoiser documents.
    """

    tokens: Tokens | None = None
    streams: tuple[Tokens, ...] = ()
    vector: Float[Tensor, "b d"] | None = None
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    channels: Float[Tensor, "b extra *space"] | None = None
    references: tuple[Latents, ...] = ()
    residuals: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Encoding:
    """The latents of images as an autoencoder encodes them: their mean and, if random,
    deviation."""

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
    """What one picture shall show: a text, and what else conditioners read (labels, images)."""

    text: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


Network: TypeAlias = Callable[[Latents, Tensor, Condition], Tensor]
"""What a process calls: a denoiser, or a wrapper around one (control)."""


@runtime_checkable
class Autoencoder(Protocol):
    """Images ⇄ latents. It owns scale and shift: its latents have about zero mean and unit
    variance.

    ``factor``: the side of a latent in pixels. ``regularisers``: losses of an encoding besides that
    of reconstruction, by their names in the field (``kl``, ``quantisation``), as (b,).
    ``last_layer``: the weight of the decoder's last layer, by which adversarial training balances
    its losses; None if there is none.
    """

    factor: int

    @property
    def last_layer(self) -> Tensor | None: ...

    def encode(self, images: Images) -> Encoding: ...

    def decode(self, latents: Latents) -> Images: ...

    def regularisers(self, encoding: Encoding) -> Mapping[str, Tensor]: ...

    def latent_shape(self, image_shape: Shape) -> Shape: ...


@runtime_checkable
class Features(Protocol):
    """A pretrained feature network, for the perceptual loss and for distances between picture sets.

    ``name`` stands in reports, ``min_size`` is the smallest side in pixels. ``heads`` holds a
    weight for each channel of each map if such were learned (LPIPS), else nothing. It is never
    trained, but gradients reach the images. ``maps`` are the features of several layers, (b, c, h,
    w) each; ``vector`` is the pooled one (b, d) at the network's native size.
    """

    @property
    def name(self) -> str: ...

    @property
    def min_size(self) -> int: ...

    @property
    def heads(self) -> tuple[Tensor, ...]: ...

    def maps(self, images: Images) -> tuple[Tensor, ...]: ...

    def vector(self, images: Images) -> Tensor: ...


@runtime_checkable
class DiscreteAutoencoder(Autoencoder, Protocol):
    """An autoencoder whose latents are rounded to the nearest of ``codes`` vectors before decoding.

    ``after_update`` is called after each optimiser step and updates the codebook's statistics of
    the batches; ``total`` sums a tensor over processes, and (seed, update) key its random draws.
    """

    codes: int

    def indices(self, latents: Latents) -> Int[Tensor, " b *space"]: ...

    def lookup(self, indices: Int[Tensor, " b *space"]) -> Latents: ...

    def after_update(
        self, seed: int, update: int, total: Callable[[Tensor], Tensor] = ...
    ) -> None: ...


@runtime_checkable
class Denoiser(Protocol):
    """The network that learns to remove noise. It knows nothing of noise schedules.

    ``size_multiple``: the sides of its latents are multiples of it. ``scalar_names``: the scalar
    conditions that it takes. ``prepare`` does, once for a prompt, what does not depend on time.
    ``variant`` is the network without some blocks, counted from 0: ``skip_blocks`` are left out
    whole; in the self-attention of ``self_only_blocks`` every patch sees only itself, and joint
    text if there is any. It raises BadInput for blocks that it does not have.
    """

    size_multiple: int

    @property
    def scalar_names(self) -> Collection[str]:
        return ()

    def __call__(self, noisy: Latents, time: Tensor, condition: Condition) -> Tensor: ...

    def prepare(self, condition: Condition) -> Condition:
        return condition

    def variant(self, skip_blocks: Sequence[int], self_only_blocks: Sequence[int]) -> Network:
        raise BadInput(f"{type(self).__name__} cannot leave out blocks: choose another guidance.")


@runtime_checkable
class Conditioner(Protocol):
    """Prompts → a condition of the same batch.

    ``null_condition`` is the condition without what ``only`` names (None: without anything), for
    guidance and dropout. ``fit`` learns a vocabulary or classes from the prompts of the data.
    """

    def __call__(self, prompts: Sequence[Prompt]) -> Condition: ...

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition: ...

    def fit(self, prompts: Iterable[Prompt]) -> None: ...


@runtime_checkable
class DropsParts(Conditioner, Protocol):
    """A conditioner of several parts, each of which training drops with its own probability.

    ``with_dropped`` returns the condition with null conditions for the samples where the mask of a
    part is true.
    """

    @property
    def dropout(self) -> Mapping[str, float]: ...

    def with_dropped(
        self, prompts: Sequence[Prompt], dropped: Mapping[str, Bool[Tensor, " b"]]
    ) -> Condition: ...


@runtime_checkable
class ReadsText(Protocol):
    """A conditioner, or a module within one, that reads the texts of prompts.

    ``reads_weights``: whether it scales tokens by weights in brackets, where
    ``given["emphasis"]`` asks for it. ``truncated`` returns a sentence for each text encoder that
    cuts off the end of a prompt.
    """

    @property
    def reads_weights(self) -> bool: ...

    def truncated(self, prompt: Prompt) -> Sequence[str]: ...


@runtime_checkable
class AcceptsEmbeddings(Protocol):
    """A conditioner, or a module within one, whose prompts may use textual-inversion embeddings.

    An embedding is a name that stands for vectors (n, width), one tensor for each width.
    ``check_embedding`` and ``add_embedding`` raise BadInput if it belongs to another model,
    ``remove_embedding`` if there is none of that name.
    """

    def check_embedding(self, name: str, vectors: Sequence[Tensor]) -> None: ...

    def add_embedding(self, name: str, vectors: Sequence[Tensor]) -> None: ...

    def remove_embedding(self, name: str) -> None: ...
