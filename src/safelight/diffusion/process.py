"""A noise schedule with a prediction: how latents are denoised, and the training loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from safelight.errors import BadInput
from safelight.types.diffusion import Estimate, NoiseLevel, Prediction, Schedule
from safelight.types.networks import Condition, Network
from safelight.types.tensors import Latents


@dataclass(frozen=True)
class Process:
    """How latents become noise, and what a network predicts of them.

    Raises BadInput if the schedule ends in pure noise and no estimate follows from the prediction
    there.
    """

    schedule: Schedule
    prediction: Prediction

    def __post_init__(self) -> None:
        end = self.schedule(torch.ones((), dtype=torch.float64))
        if self.prediction.needs_signal and end.alpha == 0:
            raise BadInput(
                "a schedule that ends in pure noise needs a prediction from which the clean "
                f"latents follow there, got {self.prediction} with {self.schedule}: predict v or "
                "flow, or choose a schedule that keeps some signal."
            )

    def denoise(
        self, network: Network, noisy: Latents, level: NoiseLevel, condition: Condition
    ) -> Estimate:
        """The clean latents that ``network`` estimates behind ``noisy`` (b c *space).

        ``level`` has one value for all samples, or one for each.
        """
        answer = self._answer(network, noisy, level, condition)
        return self.prediction.to_estimate(answer, noisy, level)

    def loss(
        self,
        network: Network,
        clean: Latents,
        noise: Latents,
        t: Float[Tensor, " b"],
        condition: Condition,
    ) -> Float[Tensor, " b"]:
        """The mean squared error of each sample at its ``t``, in the space of the prediction.

        With a learned variance, 0.001 of the variational bound is added: the hybrid loss (arXiv
        2102.09672, eq. 16). Its step is a thousandth of t, as in the table it was made for, or half
        of t where that is less. The paper's likelihood of 8-bit pictures at the last step is left
        out: it has no meaning for latents.
        """
        level = self.schedule(t.reshape(-1, *[1] * (clean.ndim - 1)))
        noisy = level.alpha * clean + level.sigma * noise
        answer = self._answer(network, noisy, level, condition)
        target = self.prediction.target(clean, noise, level)
        loss = reduce((answer[:, : target.shape[1]] - target).square(), "b ... -> b", "mean")
        estimate = self.prediction.to_estimate(answer, noisy, level)
        if estimate.variance is None:
            return loss
        from safelight.diffusion.variational import variational_bound

        before = torch.maximum(t - 1 / 1000, t / 2).reshape(level.sigma.shape)
        bound = variational_bound(estimate, clean, noisy, level, self.schedule(before))
        return loss + 0.001 * bound

    def _answer(
        self, network: Network, noisy: Latents, level: NoiseLevel, condition: Condition
    ) -> Tensor:
        dtype = torch.promote_types(noisy.dtype, torch.float32)  # bfloat16 would round the time
        time = level.time.to(noisy.device, dtype).reshape(-1).expand(len(noisy))
        return network(self.prediction.scale_input(noisy, level), time, condition)
