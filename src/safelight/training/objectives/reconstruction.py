"""Stage one: an autoencoder learns to reconstruct pictures.

Its losses are of pixels (L1, L2), a perceptual distance, an adversarial loss, and regularisers of
the encoding and of the latents. docs/first-stage.md says what each of them does, with its source.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from safelight.autoencoders.kl.config import Config as KLConfig
from safelight.card import Card
from safelight.config import Builds, Slot, kind_of
from safelight.data.dataset import Dataset
from safelight.diffusion.noise import sample_noise
from safelight.errors import BadInput, unknown
from safelight.features.tiny_darknet import Config as TinyDarknetConfig
from safelight.media.pictures import sheet, to_pictures
from safelight.model import LatentDiffusion, module
from safelight.nn.perceptual import perceptual
from safelight.training.adversarial import Adversarial, Adversary, adaptive_weight, with_gradient
from safelight.training.calibration import calibrate
from safelight.training.objective import Group, Loss, ProgressCallback, RunContext
from safelight.types.networks import Autoencoder, DiscreteAutoencoder, Encoding, Features
from safelight.types.tensors import Images, Latents

REGULARISERS = {"kl": 1e-6, "quantisation": 1.0}
"""The default weights of the regularisers that autoencoders have (arXiv 2112.10752)."""


@dataclass(frozen=True)
class Perceptual:
    """The perceptual loss: the distance of the features of a network (``nn/perceptual.py``)."""

    network: Annotated[Builds[Features], Slot("features")] = field(
        default_factory=TinyDarknetConfig
    )
    weight: float = 1.0


@dataclass(frozen=True)
class Config:
    """Weights of the losses, each a mean over pictures and values; a weight of 0 leaves a loss out.

    ``regularisers`` are weights of the autoencoder's own regularisers, else ``REGULARISERS``.
    ``log_variance`` is the initial value of a learned log-variance of the reconstruction's losses;
    None: it is not learned. ``equivariance`` weighs that latents at half their size decode to
    pictures at half their size. ``decoder_noise`` is the noise added to the decoder's latents in
    training, in units of their deviation.
    """

    autoencoder: Annotated[Builds[Autoencoder], Slot("autoencoders")] = field(
        default_factory=KLConfig
    )
    l1: float = 1.0
    l2: float = 0.0
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None
    regularisers: Mapping[str, float] = field(default_factory=dict)
    log_variance: float | None = None
    equivariance: float = 0.0
    decoder_noise: float = 0.0

    def __post_init__(self) -> None:
        weights = [
            self.l1,
            self.l2,
            self.equivariance,
            self.decoder_noise,
            *([self.perceptual.weight] if self.perceptual else []),
        ]
        if not all(0 <= weight < math.inf for weight in weights):
            raise BadInput(f"reconstruction: wanted weights of at least 0, got {self}.")

    def build(self, context: RunContext) -> "Reconstruction":
        return Reconstruction(self, context)


@dataclass(eq=False)
class PictureBatch:
    """Images (b, 3, h, w), their positions in the order of training, and their reconstruction.

    ``reconstruction`` is set, detached, by the autoencoder's step. The discriminator's step, which
    comes after it, uses it instead of decoding again with the updated weights.
    """

    images: Images
    positions: Sequence[int]
    reconstruction: Images | None = None


class LogVariance(nn.Module):
    """The log-variance s of the reconstruction: error · exp(-s) + s is least at s = log error."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(initial))


class Reconstruction:
    """An ``Objective`` with the group autoencoder and, if adversarial, the group discriminator."""

    def __init__(self, config: Config, context: RunContext) -> None:
        self.config, self.context = config, context
        self.autoencoder = config.autoencoder.build()
        self.weights = REGULARISERS | dict(config.regularisers)
        self.features = config.perceptual.network.build() if config.perceptual else None
        if self.features:  # not a part: it neither changes nor is saved
            module(self.features).to(context.device)
        parts = {"autoencoder": module(self.autoencoder)}
        learned = dict(parts["autoencoder"].named_parameters())
        if config.log_variance is not None:
            parts["log_variance"] = LogVariance(config.log_variance)
            learned["log_variance"] = parts["log_variance"].get_parameter("value")
        groups = [Group("autoencoder", learned)]
        self.adversary = None
        if options := config.adversarial:
            if options.adaptive and self.autoencoder.last_layer is None:
                raise BadInput(
                    f"objective.adversarial: the {kind_of(config.autoencoder)} autoencoder has no "
                    "last layer, at which the adaptive weight is computed; set adaptive = false."
                )
            self.adversary = parts["discriminator"] = Adversary(options, context.mean)
            own = dict(self.adversary.named_parameters())
            groups.append(
                Group("discriminator", own, options.start, options.rate, options.optimiser)
            )
        self.parts: Mapping[str, nn.Module] = parts
        self.groups = tuple(groups)
        self.parents: Mapping[str, str] = {}

    def prepare(self, datasets: Sequence[Dataset], progress: ProgressCallback) -> None:
        """Check that all networks accept the size and that the regularisers exist."""
        size = datasets[0].framing.size
        smallest = {
            "perceptual": self.features.min_size if self.features else 0,
            "adversarial": self.adversary.network.min_size if self.adversary else 0,
        }
        for name, least in smallest.items():
            if size < least:
                raise BadInput(
                    f"objective.{name}: wanted a framing.size of at least {least}, got {size}."
                )
        latents = torch.zeros(
            self.autoencoder.latent_shape((1, 3, size, size)), device=self.context.device
        )
        with torch.no_grad():
            known = self.autoencoder.regularisers(Encoding(latents, torch.ones_like(latents)))
        for name in self.config.regularisers:
            if name not in known:
                kind = kind_of(self.config.autoencoder)
                raise unknown(f"regulariser of a {kind} autoencoder in objective:", name, known)

    def batch(
        self, dataset: Dataset, positions: Sequence[int], indices: Sequence[int]
    ) -> PictureBatch:
        """The framed pictures at these positions."""
        return PictureBatch(dataset.images(positions, indices), positions)

    def loss(self, group: str, batch: PictureBatch) -> Loss:
        """The loss of the autoencoder or the discriminator; neither has gradients in the other."""
        images = batch.images.to(self.context.device, memory_format=torch.channels_last)
        if group == "autoencoder":
            return self._autoencoder_loss(batch, images)
        assert self.adversary is not None
        assert batch.reconstruction is not None
        return Loss(*self.adversary.discriminator_loss(images, batch.reconstruction))

    def _autoencoder_loss(self, batch: PictureBatch, images: Images) -> Loss:
        """The autoencoder's loss; losses of the picture are differentiated at the picture."""
        encoding: Encoding = self.autoencoder.encode(images)
        noise = sample_noise(self.context.seed, batch.positions, tuple(encoding.mean.shape))
        latents = encoding.sample(noise.to(images.device))
        output = self.autoencoder.decode(self._with_noise(latents, batch.positions)).float()
        batch.reconstruction = output.detach()
        regularisers = self.autoencoder.regularisers(encoding)
        metrics = {name: values.mean() for name, values in regularisers.items()}
        weighted = [self.weights[name] * value for name, value in metrics.items()]
        total = torch.stack(weighted or [output.new_zeros(())]).sum()
        if self.config.equivariance:
            metrics["equivariance"] = self._equivariance_loss(latents, images)
            total = total + self.config.equivariance * metrics["equivariance"]
        picture = output.detach().requires_grad_()
        error, losses = self._error(picture, images)
        (gradient,) = torch.autograd.grad(error, picture)
        error = error.detach()
        if "log_variance" in self.parts:
            s = self.parts["log_variance"].get_parameter("value")
            losses["log_variance"] = s.detach().clone()
            error, gradient = error * (-s).exp() + s, gradient * (-s.detach()).exp()
        total = total + with_gradient(output, gradient, error)
        if self.adversary and self.adversary.begun:
            total = total + self._adversarial_term(output, picture, gradient, losses)
        return Loss(total, metrics | losses)

    def _error(self, picture: Images, images: Images) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the reconstruction's losses, and each by its name."""
        config, difference = self.config, picture - images
        losses = {"l1": difference.abs().mean()}
        error = config.l1 * losses["l1"]
        if config.l2:
            losses["l2"] = difference.square().mean()
            error = error + config.l2 * losses["l2"]
        if self.features and config.perceptual and config.perceptual.weight:
            losses[self.features.name] = perceptual(self.features, picture, images).mean()
            error = error + config.perceptual.weight * losses[self.features.name]
        return error, losses

    def _adversarial_term(
        self, output: Images, picture: Images, gradient: Tensor, losses: dict[str, Tensor]
    ) -> Tensor:
        """The weighted adversarial loss; ``gradient`` is that of the reconstruction's losses."""
        assert self.adversary is not None
        config, last_layer = self.adversary.config, self.autoencoder.last_layer
        losses["adversarial"] = self.adversary.generator_loss(picture)
        (own,) = torch.autograd.grad(losses["adversarial"], picture)
        weight: float | Tensor = config.weight
        if config.adaptive and last_layer is not None:
            limit = config.max_adaptive_weight
            losses["adaptive"] = adaptive_weight(
                output, last_layer, gradient, own, limit, self.context.mean
            )
            weight = config.weight * losses["adaptive"]
        return with_gradient(output, weight * own, weight * losses["adversarial"].detach())

    def _with_noise(self, latents: Latents, positions: Sequence[int]) -> Latents:
        """Latents with noise, for noise-augmented decoding (arXiv 2510.11690).

        Each picture has a noise level of its own, |N(0, ``decoder_noise``²)|, in units of the
        deviation of its latents, so that latents cannot avoid the noise by growing.
        """
        if not self.config.decoder_noise:
            return latents
        seed = self.context.seed
        levels = sample_noise(seed, positions, (len(positions), 1), "how robust").abs().to(latents)
        noise = sample_noise(seed, positions, tuple(latents.shape), "robust").to(latents)
        deviation = latents.detach().flatten(1).std(1, keepdim=True)  # (b, 1)
        scale = self.config.decoder_noise * levels * deviation
        return latents + noise * scale.view(-1, *[1] * (latents.dim() - 1))

    def _equivariance_loss(self, latents: Latents, images: Images) -> Tensor:
        """L1 between latents decoded at half their size and images at half theirs.

        That is EQ-VAE (arXiv 2502.09509) with only scaling, and always by one half, so that it does
        not depend on how a batch is divided.
        """
        half = [max(1, side // 2) for side in latents.shape[2:]]
        smaller = self.autoencoder.decode(F.interpolate(latents, half, mode="area")).float()
        return (smaller - F.interpolate(images, smaller.shape[2:], mode="area")).abs().mean()

    def after_update(self, update: int) -> None:
        """Update the codebook from the batches of this update."""
        if isinstance(self.autoencoder, DiscreteAutoencoder):
            self.autoencoder.after_update(self.context.seed, update, self.context.total)

    def validate(self, batch: PictureBatch) -> Mapping[str, Tensor]:
        """L1, PSNR in dB, and the perceptual distance by the name of its network, of each picture.

        Pictures are decoded from the mode of their encoding.
        """
        restored = self._reconstruction(batch.images)
        error = (restored - batch.images).flatten(1)
        metrics = {
            "l1": error.abs().mean(1),
            "psnr": 10 * torch.log10(4 / error.square().mean(1).clamp(min=1e-10)),
        }
        if self.features:
            both = (images.to(self.context.device) for images in (restored, batch.images))
            metrics[self.features.name] = perceptual(self.features, *both)
        return metrics

    def sheet(self, dataset: Dataset) -> Image.Image:
        """Up to sixteen pictures: rows of originals, each above a row of reconstructions."""
        indices = [i * len(dataset) // 16 for i in range(min(16, len(dataset)))]
        images = dataset.images(indices, indices)
        before, after = to_pictures(images), to_pictures(self._reconstruction(images))
        rows = (
            [before[:8], after[:8], before[8:], after[8:]] if len(before) > 8 else [before, after]
        )
        return sheet(rows)

    def model(self, card: Card, dataset: Dataset) -> LatentDiffusion:
        """A copy of the autoencoder, with the scale of its latents on up to 128 pictures."""
        autoencoder = deepcopy(self.autoencoder)
        places = list(range(0, len(dataset), -(-len(dataset) // 128)))
        parts = [places[i : i + 16] for i in range(0, len(places), 16)]
        batches = (dataset.images(part, part).to(self.context.device) for part in parts)
        preview = calibrate(autoencoder, batches)
        return LatentDiffusion(autoencoder=autoencoder, card=replace(card, preview=preview))

    def _reconstruction(self, images: Images) -> Images:
        images = images.to(self.context.device, memory_format=torch.channels_last)
        restored = self.autoencoder.decode(self.autoencoder.encode(images).mode())
        return restored.float().clamp(-1, 1).cpu()
