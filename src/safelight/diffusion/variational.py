"""The variational bound, which teaches a network its variance (improved DDPM, arXiv 2102.09672, section 3.1)."""

from __future__ import annotations

import math

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from safelight.types.diffusion import Estimate, NoiseLevel
from safelight.types.tensors import Latents


def variational(
    estimate: Estimate, clean: Latents, noisy: Latents, level: NoiseLevel, after: NoiseLevel
) -> Float[Tensor, " b"]:
    """The divergence, in bits a dimension, of the step that ``estimate`` takes from the true posterior given ``clean``.

    Both are Gaussian. Only the variance is taught: the mean is taken as it is (its gradient stops). The estimate must
    have a variance, and ``after`` some noise.
    """
    assert estimate.variance is not None
    ratio = level.alpha / after.alpha
    forward = level.sigma**2 - (ratio * after.sigma) ** 2
    lower = (after.sigma / level.sigma) ** 2 * forward
    excess = (
        estimate.variance * (forward / lower).log()
    )  # log of the estimate's variance over the true one
    shift = after.alpha * forward / level.sigma**2 * (clean - estimate.clean.detach())
    divergence = (excess + (1 + shift**2 / lower) * torch.exp(-excess) - 1) / 2
    return reduce(divergence, "b ... -> b", "mean") / math.log(2)
