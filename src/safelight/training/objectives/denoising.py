"""Stage two: a denoiser and its conditioner learn the latents of a trained autoencoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch
from PIL import Image
from torch import Tensor, nn

from safelight.card import Card, licensed
from safelight.checkpoints import load
from safelight.checkpoints.state_dicts import fingerprint
from safelight.conditioners.text import Config as TextConfig
from safelight.config import Builds, Slot
from safelight.data.dataset import Dataset
from safelight.data.latents import LatentCache
from safelight.denoisers.dit.config import Config as DiTConfig
from safelight.diffusion.condition import choose
from safelight.diffusion.density import LogitNormal
from safelight.diffusion.noise import sample_noise, sample_uniform
from safelight.diffusion.prediction import Flow
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Linear
from safelight.errors import BadInput
from safelight.governance.licences import licences_of_parts, warn_unstated
from safelight.media.pictures import sheet
from safelight.model import LatentDiffusion, module
from safelight.pipeline import generate
from safelight.settings import Settings
from safelight.tasks.text_to_image import TextToImage
from safelight.training.objective import Group, Loss, ProgressCallback, RunContext
from safelight.types.diffusion import Density, Prediction, Schedule
from safelight.types.networks import (
    Condition,
    Conditioner,
    Denoiser,
    DropsParts,
    Encoding,
    Prompt,
)
from safelight.types.tensors import Images


@dataclass(frozen=True)
class Config:
    """``autoencoder`` is the model or run whose latents are learned; it is part of the result."""

    autoencoder: str
    denoiser: Annotated[Builds[Denoiser], Slot("denoisers")] = field(default_factory=DiTConfig)
    conditioner: Annotated[Builds[Conditioner], Slot("conditioners")] = field(
        default_factory=TextConfig
    )
    schedule: Annotated[Schedule, Slot("diffusion.schedule")] = field(default_factory=Linear)
    prediction: Annotated[Prediction, Slot("diffusion.prediction")] = field(default_factory=Flow)
    density: Annotated[Density, Slot("diffusion.density")] = field(default_factory=LogitNormal)
    dropout: float = 0.1  # how often all conditions are dropped, which guidance needs
    prompts: tuple[str, ...] = ()  # of the sample sheet; empty: captions of the validation data
    # of the sample sheet, and the defaults of the model card
    settings: Settings = field(default_factory=Settings)
    # facts that the autoencoder's file does not hold: scale, licence
    hints: Mapping[str, Any] = field(default_factory=dict)

    def build(self, context: RunContext) -> "Denoising":
        return Denoising(self, context)


@dataclass(frozen=True, eq=False)
class LatentBatch:
    """The data of an update: encodings, prompts, and positions in the order of training."""

    encoding: Encoding
    prompts: Sequence[Prompt]
    positions: Sequence[int]


class Denoising:
    """An ``Objective`` whose one group is the denoiser with the conditioner (arXiv 2112.10752)."""

    def __init__(self, config: Config, context: RunContext) -> None:
        self.config, self.context = config, context
        self.process = Process(config.schedule, config.prediction)
        self.source = load(config.autoencoder, str(context.device), "fp32", config.hints or None)
        if self.source.autoencoder is None:
            raise BadInput(
                f"objective.autoencoder: the model {config.autoencoder!r} has no autoencoder."
            )
        self.licences = [
            licence for licence in self.source.licences if licence.part == "autoencoder"
        ]
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
        self.parents = {"autoencoder": fingerprint(module(self.autoencoder))}
        self._caches: dict[int, LatentCache] = {}

    def prepare(self, datasets: Sequence[Dataset], progress: ProgressCallback) -> None:
        """Fit the conditioner to the training prompts; encode pictures that are not cached."""
        prompts = datasets[0].prompts(range(len(datasets[0])))
        if isinstance(self.config.conditioner, TextConfig) and not any(
            prompt.text for prompt in prompts
        ):
            raise BadInput(
                "no picture has a caption, so a text conditioner has nothing to learn: add "
                "metadata.jsonl or a .txt file next to each picture, or train on class folders "
                'with objective.conditioner = { kind = "label" }.'
            )
        self.conditioner.fit(prompts)
        for dataset in datasets:
            cache = LatentCache(
                self.context.cache / "latents.sqlite",
                self.parents["autoencoder"],
                dataset.framing,
            )
            cache.fill(
                dataset.source,
                dataset.examination,
                self._encode,
                progress=partial(progress, "encoding"),
            )
            self._caches[id(dataset)] = cache

    def batch(
        self, dataset: Dataset, positions: Sequence[int], indices: Sequence[int]
    ) -> LatentBatch:
        """Encodings from the cache, with their prompts."""
        encoding = self._caches[id(dataset)].read(dataset.hashes(indices))
        return LatentBatch(encoding, dataset.prompts(indices), list(positions))

    def loss(self, group: str, batch: LatentBatch) -> Loss:
        """The loss of the process on samples of the encodings, with some conditions dropped."""
        seed, places = self.context.seed, batch.positions
        condition = self._condition(batch)
        dropped = sample_uniform(seed, places, "dropout") < self.config.dropout
        condition = choose(dropped, self.conditioner.null_condition(batch.prompts), condition)
        losses = self._losses(batch, seed, condition)
        return Loss(losses.mean(), {})

    def after_update(self, update: int) -> None:
        """Do nothing: all parts change by gradients."""

    def validate(self, batch: LatentBatch) -> Mapping[str, Tensor]:
        """The loss of each sample, at the same times and with the same noise at each validation."""
        return {"loss": self._losses(batch, self.context.seed + 1, self.conditioner(batch.prompts))}

    def sheet(self, dataset: Dataset) -> Image.Image:
        """Samples of up to sixteen prompts, each with seed 0."""
        indices = [i * len(dataset) // 16 for i in range(min(16, len(dataset)))]
        prompts = self.config.prompts or [self._text(prompt) for prompt in dataset.prompts(indices)]
        size = dataset.framing.size
        model = self.model(Card(size=(size, size)), dataset)
        pictures = [generate(model, TextToImage(prompt), Settings(seed=0))[0] for prompt in prompts]
        return sheet([pictures[i : i + 4] for i in range(0, len(pictures), 4)])

    def model(self, card: Card, dataset: Dataset) -> LatentDiffusion:
        """The complete model; its card names the data of the autoencoder as well."""
        parts = ("conditioner", "denoiser")
        trained = licences_of_parts((), card.licence, card.name, parts)
        return LatentDiffusion(
            autoencoder=self.autoencoder,
            conditioner=self.conditioner,
            denoiser=self.denoiser,
            process=self.process,
            card=replace(
                licensed(card, [*trained, *self.licences]),
                settings=self.config.settings,
                data=(*card.data, *self.source.card.data),
                preview=self.source.card.preview,
            ),
        )

    def _condition(self, batch: LatentBatch) -> Condition:
        """The condition, of which a conditioner of several parts has dropped some now and then."""
        conditioner = self.conditioner
        if not isinstance(conditioner, DropsParts):
            return conditioner(batch.prompts)
        draws = {
            name: sample_uniform(self.context.seed, batch.positions, f"dropout of {name}")
            for name in conditioner.dropout
        }
        dropped = {name: draws[name] < rate for name, rate in conditioner.dropout.items()}
        return conditioner.with_dropped(batch.prompts, dropped)

    def _losses(self, batch: LatentBatch, seed: int, condition: Condition) -> Tensor:
        places, device = batch.positions, self.context.device
        shape = tuple(batch.encoding.mean.shape)
        clean = batch.encoding.sample(sample_noise(seed, places, shape, "encoding")).to(device)
        noise = sample_noise(seed, places, shape, "noise").to(device)
        uniform = sample_uniform(seed, places, "time")
        t = self.config.density(uniform, torch.tensor(places)).float().to(device)
        return self.process.loss(self.denoiser, clean, noise, t, condition)

    def _encode(self, images: Images) -> Encoding:
        with torch.no_grad():
            return self.autoencoder.encode(images.to(self.context.device))

    def _text(self, prompt: Prompt) -> str:
        return str(prompt.given.get("label", "")) if not prompt.text else prompt.text
