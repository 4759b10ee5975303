"""Adversarial training of an autoencoder (VQGAN; Esser et al., arXiv 2012.09841).

A discriminator learns to distinguish originals from reconstructions, and the autoencoder to make
that hard.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.config import Slot
from safelight.errors import BadInput
from safelight.model import module
from safelight.training.discriminators import BuildsDiscriminator, Mean
from safelight.training.discriminators.patch import Config as PatchConfig
from safelight.types.tensors import Images


@dataclass(frozen=True)
class Adversarial:
    """``start`` is the update at which the discriminator starts; its loss counts from the next on.

    ``adaptive`` scales the adversarial loss by gradients (``adaptive_weight``, at most
    ``max_adaptive_weight``); ``weight`` multiplies it in any case. ``rate`` multiplies the recipe's
    learning rate for the discriminator; ``optimiser`` is its own, if not the recipe's.
    """

    discriminator: Annotated[BuildsDiscriminator, Slot("training.discriminators")] = field(
        default_factory=PatchConfig
    )
    loss: Literal["hinge", "non-saturating"] = "hinge"
    weight: float = 0.5
    start: int = 0
    adaptive: bool = True
    max_adaptive_weight: float = 1e4
    r1: float = 0.0  # weight of the gradient penalty on originals; 0: none
    rate: float = 1.0
    optimiser: Annotated[Any, Slot("training.optimisers")] | None = None

    def __post_init__(self) -> None:
        numbers = (self.weight, self.start, self.max_adaptive_weight, self.r1, self.rate)
        if not all(0 <= number < math.inf for number in numbers):
            raise BadInput(
                "adversarial: wanted weight, start, max_adaptive_weight, r1 and rate "
                f"of at least 0, got {numbers}."
            )


class Adversary(nn.Module):
    """A discriminator with both losses; ``begun`` is true once it has had an update of its own."""

    begun: Tensor

    def __init__(self, config: Adversarial, mean: Mean) -> None:
        super().__init__()
        self.config = config
        self.network = config.discriminator.build(mean)
        self.register_buffer("begun", torch.tensor(False))

    def generator_loss(self, fake: Images) -> Tensor:
        """The adversarial loss of the autoencoder: low if ``fake`` is taken for real."""
        module(self.network).eval()  # spectral norm and ActNorm change in its own step only
        logits = self.network(fake)
        if self.config.loss == "hinge":
            return -logits.float().mean()
        return F.softplus(-logits.float()).mean()

    def discriminator_loss(self, real: Images, fake: Images) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the discriminator, and metrics of it."""
        module(self.network).train()
        of_real, of_fake = self.network(torch.cat([real, fake])).float().chunk(2)
        self.begun.fill_(True)
        correct = (of_real > 0).float().mean() + (of_fake < 0).float().mean()
        metrics = {"real": of_real.mean(), "fake": of_fake.mean(), "accuracy": correct / 2}
        total = gan_loss(self.config.loss, of_real, of_fake)
        if self.config.r1:
            metrics["r1"] = r1_penalty(self.network, real)
            total = total + self.config.r1 / 2 * metrics["r1"]
        return total, metrics


def gan_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """The loss of the discriminator's logits of originals and reconstructions: the mean of both.

    ``hinge``: Lim and Ye, arXiv 1705.02894; ``non-saturating``: Goodfellow et al., arXiv 1406.2661.
    """
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def r1_penalty(discriminator: Callable[[Images], Tensor], real: Images) -> Tensor:
    """R1 (Mescheder et al., arXiv 1801.04406): the gradient penalty on originals, in float32.

    It is the mean over pictures of the squared norm of the gradient of a picture's mean logit.
    """
    with torch.autocast(real.device.type, enabled=False):
        leaf = real.detach().float().requires_grad_()
        logits = discriminator(leaf).flatten(1).mean(1).sum()
        (gradient,) = torch.autograd.grad(logits, leaf, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def adaptive_weight(
    output: Images,
    last_layer: Tensor,
    reconstruction_gradient: Tensor,
    adversarial_gradient: Tensor,
    limit: float,
    mean: Mean,
) -> Tensor:
    """The weight at which both losses have equally large gradients at the decoder's last layer.

    The gradients are given at the decoder's ``output``. The weight is the ratio of their norms once
    propagated to ``last_layer`` (arXiv 2012.09841, eq. 7 with its δ of 1e-6), at most ``limit``.
    """
    gradients = (reconstruction_gradient, adversarial_gradient)
    norms = [
        mean(
            torch.autograd.grad(output, last_layer, g.to(output.dtype), retain_graph=True)[0]
        ).norm()
        for g in gradients
    ]
    weight: Tensor = norms[0] / (norms[1] + 1e-6)
    return weight.clamp(max=limit).detach()


def with_gradient(output: Images, gradient: Tensor, value: Tensor) -> Tensor:
    """``value``, with ``gradient`` as its gradient at ``output`` in addition to its own.

    The gradient of a loss is so computed once, at the picture, and serves both the adaptive weight
    and the update. It reaches no other input of that loss.
    """
    product = (output * gradient).sum()
    return value + (product - product.detach())
