"""Stage one: an autoencoder learns to give back what it was shown.

The recipe's terms: pixels (L1, L2), a perceptual distance, an adversary, the costs of the encoding, and regularisers of
the latents. What each of them does, with its source: docs/first-stage.md."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from safelight.autoencoders.kl import Config as KLConfig
from safelight.config import Builds, Slot, kind_of
from safelight.data.dataset import Dataset
from safelight.diffusion.noise import sample_noise
from safelight.errors import BadInput, unknown
from safelight.features.tiny_darknet import Config as TinyDarknetConfig
from safelight.media.pictures import sheet, to_pictures
from safelight.model import Card, LatentDiffusion, module
from safelight.nn.perceptual import perceptual
from safelight.training.adversarial import Adversarial, Opponent, balance, through
from safelight.training.calibration import finish
from safelight.training.objective import Group, Loss, Report, Setting
from safelight.types.networks import Autoencoder, DiscreteAutoencoder, Encoding, Features
from safelight.types.tensors import Images, Latents

COSTS = {"kl": 1e-6, "quantisation": 1.0}
"""How much is made of what autoencoders ask of their encodings, unless a recipe says otherwise (the paper's)."""


@dataclass(frozen=True)
class Perceptual:
    """How much is made of the distance between pictures in the eyes of a feature network (``nn/perceptual.py``)."""

    network: Annotated[Builds[Features], Slot("features")] = field(
        default_factory=TinyDarknetConfig
    )
    weight: float = 1.0


@dataclass(frozen=True)
class Config:
    """Every term is a mean over pictures and over the numbers of a picture; a weight of 0 leaves its term out.

    ``costs`` weighs what the autoencoder asks of its encoding, over ``COSTS``. ``log_variance`` is where the learned
    log-variance of the reconstruction's terms begins; without one they are taken as they are.
    """

    autoencoder: Annotated[Builds[Autoencoder], Slot("autoencoders")] = field(
        default_factory=KLConfig
    )
    l1: float = 1.0
    l2: float = 0.0
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    log_variance: float | None = None
    equivariance: float = (
        0.0  # weight: latents at half the size decode to pictures at half the size
    )
    robust: float = 0.0  # how noisy the decoder's latents are in training, in their own deviations

    def __post_init__(self) -> None:
        weights = [
            self.l1,
            self.l2,
            self.equivariance,
            self.robust,
            *([self.perceptual.weight] if self.perceptual else []),
        ]
        if not all(0 <= weight < math.inf for weight in weights):
            raise BadInput(f"reconstruction: wanted weights of at least 0, got {self}.")

    def build(self, setting: Setting) -> "Reconstruction":
        return Reconstruction(self, setting)


@dataclass(eq=False)
class Shown:
    """Images (b, 3, h, w), where they stand in the order of training, and what the autoencoder last made of them.

    ``again`` is the reconstruction of the autoencoder's own step, cut off from it. The discriminator's step, which
    comes after, judges these pictures and not those of the weights just moved: so nothing is computed twice.
    """

    images: Images
    positions: Sequence[int]
    again: Images | None = None


class LogVariance(nn.Module):
    """The logarithm of the reconstruction's variance: error · exp(-s) + s is least where s = log error."""

    def __init__(self, begins: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(begins))


class Reconstruction:
    """An ``Objective`` with the group "autoencoder" and, in adversarial training, "discriminator"."""

    def __init__(self, config: Config, setting: Setting) -> None:
        self.config, self.setting = config, setting
        self.autoencoder = config.autoencoder.build()
        self.weights = COSTS | dict(config.costs)
        self.features = config.perceptual.network.build() if config.perceptual else None
        if self.features:  # no part: it neither changes nor is saved
            module(self.features).to(setting.device)
        parts = {"autoencoder": module(self.autoencoder)}
        learned = dict(parts["autoencoder"].named_parameters())
        if config.log_variance is not None:
            parts["log_variance"] = LogVariance(config.log_variance)
            learned["log_variance"] = parts["log_variance"].get_parameter("value")
        groups = [Group("autoencoder", learned)]
        self.opponent = None
        if against := config.adversarial:
            if against.adaptive and self.autoencoder.last_layer is None:
                raise BadInput(
                    f"objective.adversarial: the {kind_of(config.autoencoder)} autoencoder has no last layer, where "
                    "gradients are balanced; set adaptive = false."
                )
            self.opponent = parts["discriminator"] = Opponent(against, setting.mean)
            own = dict(self.opponent.named_parameters())
            groups.append(
                Group("discriminator", own, against.begins, against.rate, against.optimiser)
            )
        self.parts: Mapping[str, nn.Module] = parts
        self.groups = tuple(groups)
        self.stands_on: Mapping[str, str] = {}

    def prepare(self, datasets: Sequence[Dataset], report: Report) -> None:
        """Nothing to prepare but to see that the size can be made and judged, and costs are the autoencoder's."""
        size = datasets[0].framing.size
        judges = {
            "perceptual": self.features,
            "adversarial": self.opponent and self.opponent.network,
        }
        for name, judge in judges.items():
            if judge and size < judge.min_size:
                raise BadInput(
                    f"objective.{name}: wanted a framing.size of at least {judge.min_size}, got {size}."
                )
        latents = torch.zeros(
            self.autoencoder.latent_shape((1, 3, size, size)), device=self.setting.device
        )
        with torch.no_grad():
            known = self.autoencoder.regularisers(Encoding(latents, torch.ones_like(latents)))
        for name in self.config.costs:
            if name not in known:
                raise unknown(
                    f"cost in objective.costs of a {kind_of(self.config.autoencoder)} autoencoder:",
                    name,
                    known,
                )

    def batch(self, dataset: Dataset, positions: Sequence[int], indices: Sequence[int]) -> Shown:
        """The framed pictures at these places."""
        return Shown(dataset.images(positions, indices), positions)

    def loss(self, group: str, batch: Shown) -> Loss:
        """What the autoencoder descends, or the discriminator; neither's gradient reaches the other's weights."""
        images = batch.images.to(self.setting.device, memory_format=torch.channels_last)
        if group == "autoencoder":
            return self._giving_back(batch, images)
        assert self.opponent is not None
        assert batch.again is not None
        return Loss(*self.opponent.loss(images, batch.again))

    def _giving_back(self, batch: Shown, images: Images) -> Loss:
        """Terms of the picture are differentiated at the picture, once each, and their sum is sent on from there."""
        encoding: Encoding = self.autoencoder.encode(images)
        noise = sample_noise(self.setting.seed, batch.positions, tuple(encoding.mean.shape))
        latents = encoding.sample(noise.to(images.device))
        again = self.autoencoder.decode(self._troubled(latents, batch.positions)).float()
        batch.again = again.detach()
        measured = {
            name: cost.mean() for name, cost in self.autoencoder.regularisers(encoding).items()
        }
        total = torch.stack(
            [self.weights[name] * cost for name, cost in measured.items()] or [again.new_zeros(())]
        ).sum()
        if self.config.equivariance:
            measured["equivariance"] = self._unequal(latents, images)
            total = total + self.config.equivariance * measured["equivariance"]
        seen = again.detach().requires_grad_()
        error, terms = self._error(seen, images)
        (pull,) = torch.autograd.grad(error, seen)
        error = error.detach()
        if "log_variance" in self.parts:
            s = self.parts["log_variance"].get_parameter("value")
            terms["log_variance"] = s.detach().clone()
            error, pull = error * (-s).exp() + s, pull * (-s.detach()).exp()
        total = total + through(again, pull, error)
        if self.opponent and self.opponent.begun:
            total = total + self._contested(again, seen, pull, terms)
        return Loss(total, measured | terms)

    def _error(self, seen: Images, images: Images) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction's terms, weighed and summed, and each by its name."""
        config, difference = self.config, seen - images
        terms = {"l1": difference.abs().mean()}
        error = config.l1 * terms["l1"]
        if config.l2:
            terms["l2"] = difference.square().mean()
            error = error + config.l2 * terms["l2"]
        if self.features and config.perceptual and config.perceptual.weight:
            terms[self.features.name] = perceptual(self.features, seen, images).mean()
            error = error + config.perceptual.weight * terms[self.features.name]
        return error, terms

    def _contested(
        self, again: Images, seen: Images, pull: Tensor, terms: dict[str, Tensor]
    ) -> Tensor:
        """The adversarial term, as strong as the recipe says."""
        assert self.opponent is not None
        config, last = self.opponent.config, self.autoencoder.last_layer
        terms["adversarial"] = self.opponent.against(seen)
        (push,) = torch.autograd.grad(terms["adversarial"], seen)
        factor: float | Tensor = config.weight
        if config.adaptive and last is not None:
            terms["adaptive"] = balance(again, last, pull, push, config.most, self.setting.mean)
            factor = config.weight * terms["adaptive"]
        return through(again, factor * push, factor * terms["adversarial"].detach())

    def _troubled(self, latents: Latents, positions: Sequence[int]) -> Latents:
        """Latents for a decoder that is to bear noise: each picture's with a deviation |N(0, ``robust``²)| of its own
        (noise-augmented decoding, arXiv 2510.11690), in units of that of its latents, lest they grow to drown it."""
        if not self.config.robust:
            return latents
        levels = (
            sample_noise(self.setting.seed, positions, (len(positions), 1), "how robust")
            .abs()
            .to(latents)
        )
        noise = sample_noise(self.setting.seed, positions, tuple(latents.shape), "robust").to(
            latents
        )
        deviation = (
            self.config.robust * levels * latents.detach().flatten(1).std(1, keepdim=True)
        )  # (b, 1)
        return latents + noise * deviation.view(-1, *[1] * (latents.dim() - 1))

    def _unequal(self, latents: Latents, images: Images) -> Tensor:
        """L1 between latents decoded at half their size and the images at half theirs (EQ-VAE, arXiv 2502.09509, with
        scaling alone and always by one half, so that it does not depend on how a batch is divided)."""
        half = [max(1, side // 2) for side in latents.shape[2:]]
        smaller = self.autoencoder.decode(F.interpolate(latents, half, mode="area")).float()
        return (smaller - F.interpolate(images, smaller.shape[2:], mode="area")).abs().mean()

    def after_update(self, update: int) -> None:
        """A codebook takes in what it saw in this update."""
        if isinstance(self.autoencoder, DiscreteAutoencoder):
            self.autoencoder.after_update(self.setting.seed, update, self.setting.total)

    def judge(self, batch: Shown) -> Mapping[str, Tensor]:
        """L1, PSNR (8-bit range, dB) and, by its network's name, the perceptual distance of each picture's likeliest
        reconstruction."""
        again = self._again(batch.images)
        error = (again - batch.images).flatten(1)
        found = {
            "l1": error.abs().mean(1),
            "psnr": 10 * torch.log10(4 / error.square().mean(1).clamp(min=1e-10)),
        }
        if self.features:
            both = (one.to(self.setting.device) for one in (again, batch.images))
            found[self.features.name] = perceptual(self.features, *both)
        return found

    def sheet(self, dataset: Dataset) -> Image.Image:
        """Eight pictures: above as they are, below as they come back, twice."""
        indices = [i * len(dataset) // 16 for i in range(min(16, len(dataset)))]
        images = dataset.images(indices, indices)
        before, after = to_pictures(images), to_pictures(self._again(images))
        return sheet(
            [before[:8], after[:8], before[8:], after[8:]] if len(before) > 8 else [before, after]
        )

    def model(self, card: Card, dataset: Dataset) -> LatentDiffusion:
        """A copy of the autoencoder, which owns the scale and the colours of its latents on up to 128 pictures."""
        autoencoder = deepcopy(self.autoencoder)
        places = list(range(0, len(dataset), -(-len(dataset) // 128)))
        parts = [places[i : i + 16] for i in range(0, len(places), 16)]
        colours = finish(
            autoencoder, (dataset.images(part, part).to(self.setting.device) for part in parts)
        )
        return LatentDiffusion(autoencoder=autoencoder, card=replace(card, preview=colours))

    def _again(self, images: Images) -> Images:
        shown = images.to(self.setting.device, memory_format=torch.channels_last)
        return (
            self.autoencoder.decode(self.autoencoder.encode(shown).mode())
            .float()
            .clamp(-1, 1)
            .cpu()
        )
