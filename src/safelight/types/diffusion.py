"""What diffusion is made of: noise levels, estimates, steps, and the protocols of its algorithms.

The time ``t`` runs from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from safelight.types.networks import Condition, Network
from safelight.types.shapes import Shape
from safelight.types.tensors import Latents


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """A point between clean (t = 0) and noise (t = 1): ``noisy = alpha · clean + sigma · noise``.

    ``time`` is the timestep that the network is given, in the network's own units; ``d_alpha`` and
    ``d_sigma`` are derivatives with respect to t. All are float32 or finer and of one shape, which
    broadcasts to latents, so that each frame or token may have its own level.
    """

    time: Tensor
    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def half_logsnr(self) -> Tensor:
        """log(alpha / sigma), the λ of DPM-Solver (arXiv 2206.00927).

        +inf where the level is clean, -inf where it is pure noise.
        """
        return self.alpha.log() - self.sigma.log()


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a denoiser says of noisy latents: the clean latents behind them.

    ``noise`` is None if it follows from ``clean``; guidance that renoises with other noise (CFG++)
    sets it. ``variance`` is the learned variance as a share of the way from the lower bound of the
    posterior's variance, 0, to the upper bound, 1 (improved DDPM, arXiv 2102.09672, eq. 15): a
    sampler, which knows both levels of its step, turns it into a variance.
    """

    clean: Latents
    noise: Latents | None = None
    variance: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a sampler: the ``estimate`` that it used and the ``noisy`` latents it reached.

    ``level`` is the noise level of ``noisy``, ``left`` the times that are still to visit, beginning
    with that of ``level``. A run can be resumed from a kept step with its ``noisy`` and ``left``.
    The memory of a multistep sampler is not kept: it starts again at first order, as at the
    beginning. A stochastic sampler resumes exactly if its noise is keyed by intervals of time, else
    with other draws.
    """

    index: int
    total: int
    level: NoiseLevel
    noisy: Latents
    estimate: Estimate
    left: Tensor


Run: TypeAlias = Iterator[Step]
"""The steps of a sampler, each computed when it is asked for."""

Denoise: TypeAlias = Callable[[Latents, NoiseLevel], Estimate]
"""A denoiser function: noisy latents and their noise level → an estimate of the clean latents."""

Negative: TypeAlias = Callable[[Collection[str] | None], Condition]
"""The condition that guidance moves away from: with None the negative of everything, else of the
named inputs only, and the others as they are."""


@runtime_checkable
class Schedule(Protocol):
    """A noise schedule: t in [0, 1] → NoiseLevel, and back from half the log signal-to-noise
    ratio."""

    def __call__(self, t: Tensor) -> NoiseLevel: ...

    def when(self, half_logsnr: Tensor) -> Tensor: ...


@runtime_checkable
class Prediction(Protocol):
    """What a network is trained to predict, and how an estimate follows from its output.

    ``needs_signal``: no estimate follows where alpha = 0. ``learns_variance``: the output holds a
    variance as well. ``scale_input`` is what the network is given of noisy latents, ``target`` what
    it should answer, ``to_estimate`` what its answer means.
    """

    @property
    def needs_signal(self) -> bool:
        return False

    @property
    def learns_variance(self) -> bool:
        return False

    def scale_input(self, noisy: Latents, level: NoiseLevel) -> Latents:
        return noisy

    def target(self, clean: Latents, noise: Latents, level: NoiseLevel) -> Latents: ...

    def to_estimate(self, answer: Tensor, noisy: Latents, level: NoiseLevel) -> Estimate: ...


@runtime_checkable
class Spacing(Protocol):
    """The times that a sampler visits: ``steps + 1`` of them in float64, from ``begin`` down to 0.

    ``for_tokens`` is the spacing for latents of so many patches; most do not depend on it.
    """

    def __call__(self, steps: int, schedule: Schedule, begin: float = 1.0) -> Tensor: ...

    def for_tokens(self, tokens: int) -> Spacing:
        return self


@runtime_checkable
class Density(Protocol):
    """The distribution of training times: uniform draws ``u`` in (0, 1) → t.

    ``position`` counts the samples since the beginning of training.
    """

    def __call__(self, u: Tensor, position: Tensor) -> Tensor: ...


@runtime_checkable
class NoiseSource(Protocol):
    """Standard normal draws of ``shape`` (batch first). An interval of times keys Brownian
    noise."""

    def __call__(self, shape: Shape, interval: tuple[float, float] | None = None) -> Tensor: ...


@dataclass(frozen=True)
class SamplerInfo:
    """What is known of a sampler.

    ``name`` in the field, ``order`` of its error in the size of a step, network ``passes`` that
    a step costs, the ``paper``, and when it ``draws`` fresh noise. ``brownian``: its draws are
    increments of a Brownian path, so that a run with another number of steps follows the same path.
    ``renoises``: a step ends by adding the predicted noise back, so that guidance that sets this
    noise (CFG++) has an effect.
    """

    name: str
    order: str
    passes: str
    paper: str
    draws: Literal["never", "with eta", "with s_churn", "always"] = "never"
    brownian: bool = False
    renoises: bool = False


@runtime_checkable
class Sampler(Protocol):
    """One algorithm, which takes noisy latents at ``times[0]`` to ``times[-1]`` and yields each
    step.

    ``renoises`` is that of ``info``, unless it depends on the sampler's options.
    """

    info: ClassVar[SamplerInfo]

    @property
    def needs_variance(self) -> bool:
        """Whether the network must have learned a variance."""
        return False

    @property
    def renoises(self) -> bool:
        return self.info.renoises

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
    """A network by name, and what of it is changed: blocks are numbered from 0.

    ``skip_blocks`` leaves whole blocks out; in the self-attention of ``self_only_blocks`` every
    patch sees only itself (and joint text, if there is any).
    """

    name: str = "main"
    skip_blocks: tuple[int, ...] = ()
    self_only_blocks: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ModelCall:
    """One evaluation that guidance wants: of which network, under which condition.

    ``scalars`` are given to the network in addition to those of the condition, with one value for
    all samples.
    """

    condition: Condition
    network: NetworkVariant = NetworkVariant()
    scalars: Mapping[str, float] = field(default_factory=dict)


Networks: TypeAlias = Callable[[NetworkVariant], Network]
"""The network of a variant; BadInput if there is none or it cannot be changed so."""


@runtime_checkable
class Guidance(Protocol):
    """Which evaluations are made at a noise level, and how their estimates become one.

    ``begin`` returns a fresh rule for one run. It asks ``networks`` for each variant that it will
    use besides the main network, so that what is missing is refused before the first step. If a
    rule makes any calls, the first is the main network under the condition itself. ``sets_noise``:
    its estimates set the noise with which a step is renoised.
    """

    @property
    def sets_noise(self) -> bool:
        return False

    def begin(self, networks: Networks) -> Guidance:
        return self

    def calls(
        self, condition: Condition, negative: Negative, level: NoiseLevel
    ) -> tuple[ModelCall, ...]: ...

    def combine(
        self, answers: Sequence[Estimate], noisy: Latents, level: NoiseLevel
    ) -> Estimate: ...
