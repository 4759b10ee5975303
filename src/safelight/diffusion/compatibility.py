"""Which sampler goes with which model and guidance: refused before the first network pass."""

from __future__ import annotations

from safelight.errors import BadInput
from safelight.types.diffusion import Guidance, Prediction, Sampler

NO_VARIANCE = (
    "variance=learned needs a model that has learned a variance, got one without: take "
    "variance=small."
)


def require_compatible(sampler: Sampler, prediction: Prediction, guidance: Guidance) -> None:
    """Raises BadInput if sampler, prediction and guidance cannot work together.

    The sampler may need a variance that the model has not learned, or ignore the noise that the
    guidance sets.
    """
    if sampler.needs_variance and not prediction.learns_variance:
        raise BadInput(NO_VARIANCE)
    if guidance.sets_noise and not sampler.renoises:
        raise BadInput(
            "CFG++ needs a sampler that adds the predicted noise back, "
            f"{sampler.info.name} does not: take the sampler euler or heun, or the guidance "
            "classifier-free."
        )
