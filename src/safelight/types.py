"""The nouns that every floor speaks: tensors by name, the noise level, conditions, estimates and the protocols.

Images are in [-1, 1], batch first; latents are about zero mean and unit variance. The spatial rank is open:
``*space`` is ``h w``, ``t h w`` or a list of points. ``t`` runs from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

Images: TypeAlias = Float[Tensor, "b colours *pixels"]
Latents: TypeAlias = Float[Tensor, "b c *space"]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """Where between clean (t = 0) and noise (t = 1): ``noisy = alpha · clean + sigma · noise``.

    ``time`` is what the network hears, in its own units; ``d_alpha`` and ``d_sigma`` are slopes over t. All are
    float32 or finer, of one shape that broadcasts to latents, so that frames or tokens may each have their own.
    """

    time: Tensor
    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def half_logsnr(self) -> Tensor:
        """log(alpha / sigma): the λ of DPM-Solver (arXiv 2206.00927), +inf when clean and -inf when pure noise."""
        return self.alpha.log() - self.sigma.log()


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
    streams: tuple[Tokens, ...] = ()  # further tokens with keys and values of their own (image prompts, boxes)
    vector: Float[Tensor, "b d"] | None = None  # added to the embedding of time
    scalars: Mapping[str, Tensor] = field(default_factory=dict)  # heard like time: a guidance scale, a second time
    channels: Float[Tensor, "b extra *space"] | None = None  # concatenated to the noisy latents
    references: tuple[Latents, ...] = ()  # joined to the sequence of latents
    residuals: tuple[Tensor, ...] = ()  # added inside; their order is documented by the denoiser that takes them


@dataclass(frozen=True, eq=False)
class Estimate:
    """What the waist returns: the clean latents behind the noisy ones.

    ``noise`` is None when it follows from ``clean``; a rule that renoises otherwise (CFG++) sets it.
    ``variance`` is where a learned variance lies between the two bounds of the posterior, 0 the lower and 1 the
    upper (improved DDPM, arXiv 2102.09672, eq. 15): a sampler that knows both levels turns it into a variance.
    """

    clean: Latents
    noise: Latents | None = None
    variance: Tensor | None = None


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


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a sampler: the ``estimate`` it took, the ``noisy`` latents at the ``level`` it reached, and the times
    that are ``left`` to visit, beginning with the one it is at.

    A run goes on from a kept step with its ``noisy`` and its ``left``. What a sampler remembers of earlier steps is not
    in it: one of several steps begins again as it does at a start, at first order. A stochastic one goes on as if never
    stopped where its noise is keyed by the interval of times, else with other draws.
    """

    index: int
    total: int
    level: NoiseLevel
    noisy: Latents
    estimate: Estimate
    left: Tensor


Run: TypeAlias = Iterator[Step]
"""What a sampler makes: its steps, one by one, as they are asked for."""

Denoise: TypeAlias = Callable[[Latents, NoiseLevel], Estimate]
"""The waist: noisy latents and a noise level in, clean latents out."""

Network: TypeAlias = Callable[[Latents, Tensor, Condition], Tensor]
"""What a process calls: a denoiser, or anything wrapped around one (control)."""

Negative: TypeAlias = Callable[[Collection[str] | None], Condition]
"""The condition that guidance points away from: with ``None`` everything is negated, else only what is named."""


@runtime_checkable
class Schedule(Protocol):
    """t in [0, 1] → NoiseLevel, and back from half the log signal-to-noise ratio."""

    def __call__(self, t: Tensor) -> NoiseLevel: ...

    def when(self, half_logsnr: Tensor) -> Tensor: ...


@runtime_checkable
class Prediction(Protocol):
    """What a network is asked, and how its answer is read."""

    @property
    def needs_signal(self) -> bool:
        """True if the answer cannot be read where alpha = 0."""

    @property
    def learns_variance(self) -> bool:
        """True if the answer holds a variance as well."""

    def show(self, noisy: Latents, level: NoiseLevel) -> Latents: ...

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents: ...

    def read(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate: ...


@runtime_checkable
class Spacing(Protocol):
    """Which times a sampler visits: ``steps + 1`` of them in float64, from ``begin`` down to 0."""

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor: ...


@runtime_checkable
class Sized(Spacing, Protocol):
    """A spacing that depends on how many patches the network sees."""

    def sized(self, tokens: int) -> Spacing: ...


@runtime_checkable
class Density(Protocol):
    """Which times to train on: uniform draws ``u`` in (0, 1) → t. ``position`` counts samples since the start."""

    def __call__(self, u: Tensor, position: Tensor) -> Tensor: ...


@runtime_checkable
class NoiseSource(Protocol):
    """Standard normal draws of ``shape`` (batch first). An interval of times keys Brownian increments."""

    def __call__(self, shape: Shape, interval: tuple[float, float] | None = None) -> Tensor: ...


@runtime_checkable
class Sampler(Protocol):
    """One algorithm: from noisy latents at ``times[0]`` to those at ``times[-1]``, yielding every step."""

    def __call__(
        self, denoise: Denoise, noisy: Latents, times: Tensor, schedule: Schedule, noise: NoiseSource
    ) -> Run: ...


@dataclass(frozen=True)
class Pass:
    """Which network answers, and what of it: blocks are named by their numbers, from 0.

    ``skip`` leaves whole blocks out; in the self-attention of those named in ``alone`` every patch sees only itself
    (and joint text, if there is any).
    """

    network: str = "main"
    skip: tuple[int, ...] = ()
    alone: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Question:
    """One thing that guidance asks: what the latents are under ``condition``, in the answer of which pass.

    ``hears``: scalars that the network hears beside those of the condition, each the same for all samples.
    """

    condition: Condition
    by: Pass = Pass()
    hears: Mapping[str, float] = field(default_factory=dict)


Networks: TypeAlias = Callable[[Pass], Network]
"""The network of a pass; BadInput if there is none that can make it."""


@runtime_checkable
class Guidance(Protocol):
    """Which questions are asked at a level, and how the answers become one estimate.

    ``begin`` gives a fresh rule for one run, and finds the ``networks`` of whatever passes it will ask for besides
    the main one, so that what cannot be had is refused before the first step. Where the rule asks anything, its first
    question is the condition alone, of the main network.
    """

    def begin(self, networks: Networks) -> Guidance: ...

    def ask(self, condition: Condition, negative: Negative, level: NoiseLevel) -> tuple[Question, ...]: ...

    def combine(self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel) -> Estimate: ...


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

    def nothing(self, prompts: Sequence[Prompt], only: Collection[str] | None = None) -> Condition: ...

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
