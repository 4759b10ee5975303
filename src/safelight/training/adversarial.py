"""The adversarial part of training an autoencoder: a discriminator learns to tell originals from reconstructions, and
the autoencoder to make that hard (VQGAN; Esser et al., arXiv 2012.09841)."""

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
    """``begins`` is the update from which the discriminator learns; the autoencoder hears it from the next one on.

    ``adaptive`` balances the term by gradients (``balance``), ``most`` being the largest factor; ``weight`` multiplies
    it in any case. ``rate`` is the discriminator's share of the recipe's rate, ``optimiser`` its own kind of optimiser
    if it has another than the recipe's.
    """

    discriminator: Annotated[BuildsDiscriminator, Slot("training.discriminators")] = field(
        default_factory=PatchConfig
    )
    loss: Literal["hinge", "non-saturating"] = "hinge"
    weight: float = 0.5
    begins: int = 0
    adaptive: bool = True
    most: float = 1e4
    r1: float = 0.0  # weight of the gradient penalty on originals; 0: none
    rate: float = 1.0
    optimiser: Annotated[Any, Slot("training.optimisers")] | None = None

    def __post_init__(self) -> None:
        numbers = (self.weight, self.begins, self.most, self.r1, self.rate)
        if not all(0 <= number < math.inf for number in numbers):
            raise BadInput(
                f"adversarial: wanted weight, begins, most, r1 and rate of at least 0, got {numbers}."
            )


class Opponent(nn.Module):
    """A discriminator that knows whether it has begun. Only ``loss`` changes it, and only its own step calls that."""

    begun: Tensor

    def __init__(self, config: Adversarial, mean: Mean) -> None:
        super().__init__()
        self.config = config
        self.network = config.discriminator.build(mean)
        self.register_buffer("begun", torch.tensor(False))

    def against(self, fake: Images) -> Tensor:
        """What the autoencoder descends: how surely its pictures are told from originals."""
        module(
            self.network
        ).eval()  # power iterations and first batches belong to the discriminator's step
        logits = self.network(fake)
        return (
            -logits.float().mean()
            if self.config.loss == "hinge"
            else F.softplus(-logits.float()).mean()
        )

    def loss(self, real: Images, fake: Images) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator descends, and what is worth writing down."""
        module(self.network).train()
        of_real, of_fake = self.network(torch.cat([real, fake])).float().chunk(2)
        self.begun.fill_(True)
        right = (of_real > 0).float().mean() + (of_fake < 0).float().mean()
        measured = {"real": of_real.mean(), "fake": of_fake.mean(), "accuracy": right / 2}
        total = separation(self.config.loss, of_real, of_fake)
        if self.config.r1:
            measured["r1"] = penalty(self.network, real)
            total = total + self.config.r1 / 2 * measured["r1"]
        return total, measured


def separation(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss of logits of originals and reconstructions, half the sum of both means.

    ``hinge``: Lim and Ye, arXiv 1705.02894; ``non-saturating``: Goodfellow et al., arXiv 1406.2661.
    """
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def penalty(discriminator: Callable[[Images], Tensor], real: Images) -> Tensor:
    """R1 (Mescheder et al., arXiv 1801.04406): the mean over pictures of the squared norm of the gradient of a
    picture's mean logit. In float32."""
    with torch.autocast(real.device.type, enabled=False):
        seen = real.detach().float().requires_grad_()
        logits = discriminator(seen).flatten(1).mean(1).sum()
        (gradient,) = torch.autograd.grad(logits, seen, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def balance(
    again: Images, last: Tensor, pull: Tensor, push: Tensor, most: float, mean: Mean
) -> Tensor:
    """How much of the adversarial term is as strong as the reconstruction's terms at the decoder's last layer.

    ``pull`` and ``push`` are both terms' gradients at the reconstruction ``again``. The factor is the ratio of their
    norms once carried on to ``last`` (arXiv 2012.09841, eq. 7 with its δ of 1e-6), and ``most`` at most.
    """
    norms = [
        mean(torch.autograd.grad(again, last, one.to(again.dtype), retain_graph=True)[0]).norm()
        for one in (pull, push)
    ]
    factor: Tensor = norms[0] / (norms[1] + 1e-6)
    return factor.clamp(max=most).detach()


def through(again: Images, gradient: Tensor, value: Tensor) -> Tensor:
    """``value`` (which may have gradients of its own), with ``gradient`` as its gradient at ``again``.

    So a term's gradient is found once, at the picture: it serves the balance and the update, and reaches nothing but
    the picture of all that the term was made with.
    """
    work = (again * gradient).sum()
    return value + (work - work.detach())
