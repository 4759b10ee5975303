"""Stage two: a denoiser, with the conditioner that speaks to it, learns the latents of a trained autoencoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch
from PIL import Image
from torch import Tensor, nn

from safelight.checkpoints import load
from safelight.checkpoints.native import fingerprint
from safelight.conditioners.text import Config as TextConfig
from safelight.config import Builds, Slot
from safelight.data.dataset import Dataset
from safelight.data.latents import LatentCache
from safelight.denoisers.dit import Config as DiTConfig
from safelight.diffusion.condition import choose
from safelight.diffusion.density import LogitNormal
from safelight.diffusion.noise import sample_noise, sample_uniform
from safelight.diffusion.prediction import Flow
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Linear
from safelight.errors import BadInput
from safelight.governance.licences import licences_of_parts, warn_unstated
from safelight.media.pictures import sheet
from safelight.model import Card, LatentDiffusion, licensed, module
from safelight.pipeline import generate
from safelight.settings import Settings
from safelight.tasks.text_to_image import TextToImage
from safelight.training.objective import Group, Loss, Report, Setting
from safelight.types.diffusion import Density, Prediction, Schedule
from safelight.types.networks import Condition, Conditioner, Denoiser, Encoding, Prompt
from safelight.types.tensors import Images


@dataclass(frozen=True)
class Config:
    """``autoencoder`` names a model or a run whose latents are learned; it is part of the model that comes out."""

    autoencoder: str
    denoiser: Annotated[Builds[Denoiser], Slot("denoisers")] = field(default_factory=DiTConfig)
    conditioner: Annotated[Builds[Conditioner], Slot("conditioners")] = field(
        default_factory=TextConfig
    )
    schedule: Annotated[Schedule, Slot("diffusion.schedule")] = field(default_factory=Linear)
    prediction: Annotated[Prediction, Slot("diffusion.prediction")] = field(default_factory=Flow)
    density: Annotated[Density, Slot("diffusion.density")] = field(default_factory=LogitNormal)
    dropout: float = 0.1  # how often the condition is left out, so that guidance has something to point away from
    prompts: tuple[str, ...] = ()  # of the sample sheet; none: captions of the validation data
    settings: Settings = field(
        default_factory=Settings
    )  # of the sheet, and the model card's defaults
    hints: Mapping[str, Any] = field(
        default_factory=dict
    )  # what the autoencoder's file cannot tell: scale, licence

    def build(self, setting: Setting) -> "Denoising":
        return Denoising(self, setting)


@dataclass(frozen=True, eq=False)
class Noised:
    """What one update needs of the data: encodings, prompts, and places in the order of training."""

    encoding: Encoding
    prompts: Sequence[Prompt]
    positions: Sequence[int]


class Denoising:
    """An ``Objective`` with one group: the denoiser and the conditioner together, as in the paper."""

    def __init__(self, config: Config, setting: Setting) -> None:
        self.config, self.setting = config, setting
        self.process = Process(config.schedule, config.prediction)
        self.source = load(config.autoencoder, str(setting.device), "fp32", config.hints or None)
        if self.source.autoencoder is None:
            raise BadInput(
                f"objective.autoencoder: the model {config.autoencoder!r} has no autoencoder."
            )
        self.licences = [one for one in self.source.licences if one.part == "autoencoder"]
        warn_unstated(self.licences)
        self.autoencoder = self.source.autoencoder
        self.denoiser, self.conditioner = config.denoiser.build(), config.conditioner.build()
        self.parts: Mapping[str, nn.Module] = {
            "denoiser": module(self.denoiser),
            "conditioner": module(self.conditioner),
        }
        parameters = {
            f"{name}.{key}": p
            for name, part in self.parts.items()
            for key, p in part.named_parameters()
        }
        self.groups = (Group("denoiser", parameters),)
        self.stands_on = {"autoencoder": fingerprint(module(self.autoencoder))}
        self._caches: dict[int, LatentCache] = {}

    def prepare(self, datasets: Sequence[Dataset], report: Report) -> None:
        """The conditioner learns its words from the training data; what is not in the latent cache yet is encoded."""
        prompts = datasets[0].prompts(range(len(datasets[0])))
        if isinstance(self.config.conditioner, TextConfig) and not any(
            prompt.text for prompt in prompts
        ):
            raise BadInput(
                "no picture has a caption, so a conditioner on text has nothing to learn: add metadata.jsonl or a .txt "
                'beside each picture, or train on class folders with objective.conditioner = { kind = "label" }.'
            )
        self.conditioner.fit(prompts)
        for dataset in datasets:
            cache = LatentCache(
                self.setting.cache / "latents.sqlite",
                self.stands_on["autoencoder"],
                dataset.framing,
            )
            cache.fill(
                dataset.source,
                dataset.examination,
                self._encode,
                progress=partial(report, "encoding"),
            )
            self._caches[id(dataset)] = cache

    def batch(self, dataset: Dataset, positions: Sequence[int], indices: Sequence[int]) -> Noised:
        """Encodings from the cache, with their prompts."""
        encoding = self._caches[id(dataset)].read(dataset.hashes(indices))
        return Noised(encoding, dataset.prompts(indices), list(positions))

    def loss(self, group: str, batch: Noised) -> Loss:
        """The process's loss on a fresh draw of each encoding, with the condition left out now and then."""
        seed, places = self.setting.seed, batch.positions
        condition = self.conditioner(batch.prompts)
        left_out = sample_uniform(seed, places, "dropout") < self.config.dropout
        condition = choose(left_out, self.conditioner.null_condition(batch.prompts), condition)
        losses = self._losses(batch, seed, condition)
        return Loss(losses.mean(), {})

    def after_update(self, update: int) -> None:
        """Nothing changes but by gradient."""

    def judge(self, batch: Noised) -> Mapping[str, Tensor]:
        """The loss of each sample under its whole condition, at times and noise that are the same at each check."""
        return {"loss": self._losses(batch, self.setting.seed + 1, self.conditioner(batch.prompts))}

    def sheet(self, dataset: Dataset) -> Image.Image:
        """Sixteen prompts, seed 0 each."""
        indices = [i * len(dataset) // 16 for i in range(min(16, len(dataset)))]
        prompts = self.config.prompts or [
            self._asked(prompt) for prompt in dataset.prompts(indices)
        ]
        size = dataset.framing.size
        model = self.model(Card(size=(size, size)), dataset)
        pictures = [generate(model, TextToImage(prompt), Settings(seed=0))[0] for prompt in prompts]
        return sheet([pictures[i : i + 4] for i in range(0, len(pictures), 4)])

    def model(self, card: Card, dataset: Dataset) -> LatentDiffusion:
        """The whole model, its data including that of the autoencoder."""
        return LatentDiffusion(
            autoencoder=self.autoencoder,
            conditioner=self.conditioner,
            denoiser=self.denoiser,
            process=self.process,
            card=replace(
                licensed(
                    card,
                    [
                        *licences_of_parts(
                            (), card.licence, card.name, ("conditioner", "denoiser")
                        ),
                        *self.licences,
                    ],
                ),
                settings=self.config.settings,
                data=(*card.data, *self.source.card.data),
                preview=self.source.card.preview,
            ),
        )

    def _losses(self, batch: Noised, seed: int, condition: Condition) -> Tensor:
        places, device = batch.positions, self.setting.device
        shape = tuple(batch.encoding.mean.shape)
        clean = batch.encoding.sample(sample_noise(seed, places, shape, "encoding")).to(device)
        noise = sample_noise(seed, places, shape, "noise").to(device)
        t = (
            self.config.density(sample_uniform(seed, places, "time"), torch.tensor(places))
            .float()
            .to(device)
        )
        return self.process.loss(self.denoiser, clean, noise, t, condition)

    def _encode(self, images: Images) -> Encoding:
        with torch.no_grad():
            return self.autoencoder.encode(images.to(self.setting.device))

    def _asked(self, prompt: Prompt) -> str:
        return str(prompt.given.get("label", "")) if not prompt.text else prompt.text
