"""Stage one: an autoencoder learns to give back what it was shown (L1 and the costs of its encoding)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from PIL import Image
from torch import Tensor, nn

from safelight.autoencoders.kl import Config as KLConfig
from safelight.config import Builds, Slot
from safelight.data.dataset import Dataset
from safelight.diffusion.noise import sample_noise
from safelight.media.pictures import sheet, to_pictures
from safelight.model import Card, LatentDiffusion, module
from safelight.training.finish import finish
from safelight.training.objective import Group, Loss, Report, Setting
from safelight.types import Autoencoder, Encoding, Images

COSTS = {"kl": 1e-6, "commitment": 0.25, "codebook": 1.0}
"""How much is made of what autoencoders ask of their encodings, unless a recipe says otherwise (the paper's)."""


@dataclass(frozen=True)
class Config:
    """L1 is a mean over the numbers of a picture; ``costs`` weighs what the autoencoder asks of its encoding."""

    autoencoder: Annotated[Builds[Autoencoder], Slot("autoencoders")] = field(default_factory=KLConfig)
    l1: float = 1.0
    costs: Mapping[str, float] = field(default_factory=dict)  # over ``COSTS``

    def build(self, setting: Setting) -> "Reconstruction":
        return Reconstruction(self, setting)


@dataclass(frozen=True, eq=False)
class Shown:
    """Images (b, 3, h, w) and where they stand in the order of training."""

    images: Images
    positions: Sequence[int]


class Reconstruction:
    """An ``Objective`` with one group; adversarial training adds a second."""

    def __init__(self, config: Config, setting: Setting) -> None:
        self.config, self.setting = config, setting
        self.autoencoder = config.autoencoder.build()
        self.weights = COSTS | dict(config.costs)
        self.parts: Mapping[str, nn.Module] = {"autoencoder": module(self.autoencoder)}
        self.stands_on: Mapping[str, str] = {}
        self.groups = (Group("autoencoder", dict(module(self.autoencoder).named_parameters())),)

    def prepare(self, datasets: Sequence[Dataset], report: Report) -> None:
        """Nothing to prepare but to see that the size can be made."""
        size = datasets[0].framing.size
        self.autoencoder.latent_shape((1, 3, size, size))

    def batch(self, dataset: Dataset, positions: Sequence[int], indices: Sequence[int]) -> Shown:
        """The framed pictures at these places."""
        return Shown(dataset.images(positions, indices), positions)

    def loss(self, group: str, batch: Shown) -> Loss:
        """L1 between images and what is decoded from a draw of their encoding, and KL to the standard normal."""
        images = batch.images.to(self.setting.device, memory_format=torch.channels_last)
        encoding: Encoding = self.autoencoder.encode(images)
        noise = sample_noise(self.setting.seed, batch.positions, tuple(encoding.mean.shape))
        again = self.autoencoder.decode(encoding.sample(noise.to(images.device)))
        costs = {name: cost.mean() for name, cost in self.autoencoder.costs(encoding).items()}
        l1 = (again.float() - images).abs().mean()
        total = self.config.l1 * l1 + sum(self.weights[name] * cost for name, cost in costs.items())
        return Loss(total, {"l1": l1, **costs})

    def judge(self, batch: Shown) -> Mapping[str, Tensor]:
        """L1 and PSNR (8-bit range, dB) of each picture's likeliest reconstruction."""
        again = self._again(batch.images)
        error = (again - batch.images).flatten(1)
        return {"l1": error.abs().mean(1), "psnr": 10 * torch.log10(4 / error.square().mean(1).clamp(min=1e-10))}

    def sheet(self, dataset: Dataset) -> Image.Image:
        """Eight pictures: above as they are, below as they come back, twice."""
        indices = [i * len(dataset) // 16 for i in range(min(16, len(dataset)))]
        images = dataset.images(indices, indices)
        before, after = to_pictures(images), to_pictures(self._again(images))
        return sheet([before[:8], after[:8], before[8:], after[8:]] if len(before) > 8 else [before, after])

    def model(self, card: Card, dataset: Dataset) -> LatentDiffusion:
        """A copy of the autoencoder, which owns the scale and the colours of its latents on up to 128 pictures."""
        autoencoder = deepcopy(self.autoencoder)
        places = list(range(0, len(dataset), -(-len(dataset) // 128)))
        parts = [places[i : i + 16] for i in range(0, len(places), 16)]
        colours = finish(autoencoder, (dataset.images(part, part).to(self.setting.device) for part in parts))
        return LatentDiffusion(autoencoder=autoencoder, card=replace(card, preview=colours))

    def _again(self, images: Images) -> Images:
        shown = images.to(self.setting.device, memory_format=torch.channels_last)
        return self.autoencoder.decode(self.autoencoder.encode(shown).mode()).float().clamp(-1, 1).cpu()
