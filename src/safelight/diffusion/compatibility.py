"""Which sampler goes with which model and guidance: what cannot work together is refused before the first pass."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from safelight.diffusion.trajectory import About
from safelight.errors import BadInput
from safelight.types.diffusion import Guidance, Prediction, Sampler

NO_VARIANCE = "learned variance wants a model that learned one, got none: take variance=small."


@runtime_checkable
class Wanting(Protocol):
    """A sampler that may want the variance which a network learned."""

    @property
    def wants_variance(self) -> bool: ...


@runtime_checkable
class Described(Protocol):
    """A sampler that says what is known of it."""

    @property
    def about(self) -> About: ...


@runtime_checkable
class Renoising(Protocol):
    """A guidance that says with which noise a step goes on."""

    @property
    def renoises(self) -> bool: ...


def require_fit(sampler: Sampler, prediction: Prediction, guidance: Guidance) -> None:
    """Raises BadInput if the sampler wants a variance that the model lacks, or ignores the noise that guidance sets."""
    if isinstance(sampler, Wanting) and sampler.wants_variance and not prediction.learns_variance:
        raise BadInput(NO_VARIANCE)
    if _sets_noise(guidance) and isinstance(sampler, Described) and not _puts_back(sampler):
        raise BadInput(
            f"CFG++ wants a sampler that puts back the noise that was found, {sampler.about.name} does not: take the "
            "sampler euler or heun, or the guidance classifier-free."
        )


def _sets_noise(guidance: Guidance) -> bool:
    inner = [one for one in vars(guidance).values() if isinstance(one, Guidance)]
    return (isinstance(guidance, Renoising) and guidance.renoises) or any(
        _sets_noise(one) for one in inner
    )


def _puts_back(sampler: Described) -> bool:
    """What the sampler says of itself, or the ``form`` that it was given."""
    return sampler.about.renoises or vars(sampler).get("form") == "noise"
