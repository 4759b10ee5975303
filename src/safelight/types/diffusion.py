"""What diffusion is made of: the noise level, estimates, steps, and the protocols of its algorithms.

``t`` runs from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from safelight.types.networks import Condition, Network
from safelight.types.shapes import Shape
from safelight.types.tensors import Latents


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

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents: ...

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents: ...

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate: ...


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
        self,
        denoise: Denoise,
        noisy: Latents,
        times: Tensor,
        schedule: Schedule,
        noise: NoiseSource,
    ) -> Run: ...


@dataclass(frozen=True)
class NetworkVariant:
    """Which network answers, and what of it: blocks are named by their numbers, from 0.

    ``skip_blocks`` leaves whole blocks out; in the self-attention of ``self_only_blocks`` every patch sees only itself
    (and joint text, if there is any).
    """

    name: str = "main"
    skip_blocks: tuple[int, ...] = ()
    self_only_blocks: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ModelCall:
    """One thing that guidance asks: what the latents are under ``condition``, in the answer of which pass.

    ``scalars``: scalars that the network hears beside those of the condition, each the same for all samples.
    """

    condition: Condition
    network: NetworkVariant = NetworkVariant()
    scalars: Mapping[str, float] = field(default_factory=dict)


Networks: TypeAlias = Callable[[NetworkVariant], Network]
"""The network of a pass; BadInput if there is none that can make it."""


@runtime_checkable
class Guidance(Protocol):
    """Which questions are asked at a level, and how the answers become one estimate.

    ``begin`` gives a fresh rule for one run, and finds the ``networks`` of whatever passes it will ask for besides
    the main one, so that what cannot be had is refused before the first step. Where the rule asks anything, its first
    question is the condition alone, of the main network.
    """

    def begin(self, networks: Networks) -> Guidance: ...

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]: ...

    def combine(
        self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel
    ) -> Estimate: ...
