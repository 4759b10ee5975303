"""The variational bound, by which a network learns its variance.

Improved DDPM, arXiv 2102.09672, section 3.1.
"""

from __future__ import annotations

import math

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from safelight.types.diffusion import Estimate, NoiseLevel
from safelight.types.tensors import Latents


def variational_bound(
    estimate: Estimate, clean: Latents, noisy: Latents, level: NoiseLevel, after: NoiseLevel
) -> Float[Tensor, " b"]:
    """The KL divergence, in bits per dimension, from the true posterior to the model's.

    The posteriors are those of the step from ``level`` to ``after``, both Gaussian, the true one
    given ``clean``. Only the variance is trained: no gradient flows to the mean. The estimate must
    have a variance, and ``after`` some noise.
    """
    assert estimate.variance is not None
    ratio = level.alpha / after.alpha
    forward = level.sigma**2 - (ratio * after.sigma) ** 2
    lower = (after.sigma / level.sigma) ** 2 * forward
    # The logarithm of the model's variance over the true one.
    log_ratio = estimate.variance * (forward / lower).log()
    shift = after.alpha * forward / level.sigma**2 * (clean - estimate.clean.detach())
    divergence = (log_ratio + (1 + shift**2 / lower) * torch.exp(-log_ratio) - 1) / 2
    return reduce(divergence, "b ... -> b", "mean") / math.log(2)
