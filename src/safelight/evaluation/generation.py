"""Judging a denoiser: samples from the captions of held-out pictures, against those pictures."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from safelight.config import kind_of
from safelight.evaluation import atoms as atom
from safelight.evaluation import sheets
from safelight.evaluation.checkers import KnownPictures, checkers
from safelight.evaluation.clip_score import clip_score_figure
from safelight.evaluation.distances import (
    frechet_figure,
    frechet_floor,
    infinity_figure,
    kernel_figure,
)
from safelight.evaluation.diversity import diversity_figure, mean_distance
from safelight.evaluation.intervals import Figure
from safelight.evaluation.memorisation import (
    altered,
    memorisation_figures,
    nearest,
    threshold,
)
from safelight.evaluation.neighbourhoods import DENSITY_NEIGHBOURS, neighbourhood_figures
from safelight.evaluation.reference import (
    Reference,
    picture_vectors,
    reference_vectors,
    shared_pictures,
)
from safelight.evaluation.retrieval import nearest_captions, rank_figures, ranks
from safelight.evaluation.sampling import parameter_counts, sample, speed_figures
from safelight.features.clip import CLIP
from safelight.governance.licences import combined
from safelight.model import LatentDiffusion, module
from safelight.pipeline import resolve
from safelight.settings import GUIDANCE, SAMPLER, SPACING, Settings
from safelight.types.networks import Features
from safelight.types.tensors import Images

Progress = Callable[[str, int, int], None]
ALTERED = 128
"""How many training pictures are altered to find what a near-copy is."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it; 0 or () leaves a part out."""

    settings: Settings = field(default_factory=Settings)
    size: int = 0  # of the pictures in pixels; 0: the model's own
    samples: int = 0  # made in all, over the captions in turn; fewer than held-out: one for each
    repeats: int = 1000  # bootstrap samples
    things: int = 24  # atoms: things that are asked for in every style
    diversity_prompts: int = 8
    diversity_seeds: int = 4
    speed_repeats: int = 3
    curve_prompts: int = 48
    curve_steps: tuple[int, ...] = ()
    curve_guidance: tuple[float, ...] = ()
    batch: int = 8


@dataclass(frozen=True, eq=False)
class Evaluation:
    """``facts`` are JSON values; ``sheets`` are pictures by the name that their file gets."""

    facts: dict[str, Any]
    sheets: dict[str, Image.Image]


@dataclass(frozen=True, eq=False)
class DenoiserEvaluation:
    """One evaluation: the model, real held-out pictures and, if there are any, training pictures.

    The first of ``networks`` decides obedience, memorisation, diversity and curves.
    """

    model: LatentDiffusion
    networks: Sequence[Features]
    held_out: Reference
    training: Reference | None
    plan: Plan
    report: Progress
    clip: CLIP | None = None

    def evaluate(self) -> Evaluation:
        """Everything that the plan asks for. BadInput if all held-out pictures are training
        ones."""
        shared = shared_pictures(self.held_out, self.training) if self.training else 0
        pictures: dict[str, Image.Image] = {}
        facts = {
            "what": "generation",
            "judged": "denoiser",
            "model": about(self.model),
            "settings": written_settings(self.settings),
            "seed": self.settings.seed,
            "data": self._data(shared),
            "samples": max(len(self.held_out), self.plan.samples),
            "speed": self._figures(self._speed()),  # first: peak memory is then that of sampling
        }
        facts["distribution"] = {
            network.name: self.distribution(network) for network in self.networks
        }
        facts["obedience"] = self._figures(self.obedience())
        pictures["samples"] = self._sample_sheet()
        if self.training:
            memorised, pictures["nearest"] = self.memorisation(self.training)
            facts["memorisation"] = self._figures(memorised)
            if self.plan.things:
                facts["atoms"], pictures["atoms"] = self._atoms(self.training)
        if self.plan.diversity_prompts and self.plan.diversity_seeds > 1:
            spread, pictures["seeds"] = self._diversity()
            facts["diversity"] = self._figures([spread])
        curves = self._curves()
        return Evaluation(facts | ({"curves": curves} if curves else {}), pictures)

    @property
    def first(self) -> Features:
        """The network that decides what is measured over one alone."""
        return self.networks[0]

    @property
    def settings(self) -> Settings:
        """The request's settings with the model card's where it says nothing."""
        return resolve(self.model, self.plan.settings)

    @cached_property
    def samples(self) -> Images:
        """A sample for the caption of each held-out picture, then further ones in the same
        order."""
        captions = self.held_out.captions
        count = max(len(captions), self.plan.samples)
        prompts = [captions[number % len(captions)] for number in range(count)]
        return self._sample(prompts, self.settings, "sampling")

    @cached_property
    def real_draw(self) -> list[int]:
        """As many training pictures as there are samples, spread evenly."""
        assert self.training is not None
        count = min(len(self.samples), len(self.training))
        return [place * len(self.training) // count for place in range(count)]

    @cached_property
    def retrieved(self) -> list[int]:
        """For each held-out caption the training picture of the most similar caption."""
        assert self.training is not None
        return nearest_captions(self.held_out.captions, self.training.captions)

    def vectors(self, network: Features, pictures: Reference, title: str) -> Tensor:
        """The features of real pictures, from the cache if they are there."""
        return reference_vectors(
            network, pictures, partial(self.report, f"{network.name}: {title}")
        )

    def sample_vectors(self, network: Features, images: Images, title: str) -> Tensor:
        """The features of samples."""
        return picture_vectors(
            network,
            lambda places: images[list(places)],
            len(images),
            partial(self.report, f"{network.name}: {title}"),
        )

    @cached_property
    def first_vectors(self) -> tuple[Tensor, Tensor]:
        """The features of the samples and of the held-out pictures over the first network."""
        return (
            self.sample_vectors(self.first, self.samples, "samples"),
            self.vectors(self.first, self.held_out, "held-out pictures"),
        )

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.settings.seed or 0)

    def _figures(self, figures: Sequence[Figure], features: str = "") -> list[dict[str, Any]]:
        return [asdict(replace(figure, features=features or figure.features)) for figure in figures]

    def _sample(self, prompts: Sequence[str], settings: Settings, title: str) -> Images:
        progress = partial(self.report, title)
        return sample(self.model, prompts, settings, progress, self.plan.size, self.plan.batch)

    def _data(self, shared: int) -> dict[str, Any]:
        training = self.training.facts() if self.training else None
        return {
            "held_out": self.held_out.facts(),
            "training": training,
            "held_out_among_training": shared,
            "framing": f"centre squares of {self.held_out.dataset.framing.size} pixels (Lanczos)",
        }

    def _speed(self) -> list[Figure]:
        if not self.plan.speed_repeats:
            return []
        self.report("timing", 0, 1)
        prompt = self.held_out.captions[0]
        figures = speed_figures(
            self.model, prompt, self.settings, self.plan.speed_repeats, self.plan.batch
        )
        self.report("timing", 1, 1)
        return figures

    def distribution(self, network: Features) -> list[dict[str, Any]]:
        """A row of figures for the samples and for both baselines, over one network."""
        samples, real = (
            self.first_vectors
            if network is self.first
            else (
                self.sample_vectors(network, self.samples, "samples"),
                self.vectors(network, self.held_out, "held-out pictures"),
            )
        )
        sets = {"samples": samples}
        pool = real
        if self.training:
            pool = self.vectors(network, self.training, "training pictures")
            sets["real training pictures"] = pool[self.real_draw]
            sets["nearest caption's picture"] = pool[self.retrieved]
        floor = frechet_floor(pool, len(real), 10, self._generator())
        rows = []
        for number, (name, vectors) in enumerate(sets.items()):
            self.report(f"{network.name}: distances", number, len(sets))
            figures = [*self._distances(vectors, real), floor]
            rows.append({"set": name, "figures": self._figures(figures, network.name)})
        self.report(f"{network.name}: distances", len(sets), len(sets))
        return rows

    def _distances(self, vectors: Tensor, real: Tensor) -> list[Figure]:
        repeats = self.plan.repeats
        figures = [
            measure(vectors, real, repeats, self._generator())
            for measure in (kernel_figure, frechet_figure, infinity_figure)
        ]
        if min(len(vectors), len(real)) > DENSITY_NEIGHBOURS:
            figures += neighbourhood_figures(real, vectors, repeats, self._generator())
        return figures

    def obedience(self) -> list[Figure]:
        """The rank of the true picture for samples and for the nearest caption's pictures."""
        samples, real = self.first_vectors[0][: len(self.held_out)], self.first_vectors[1]
        styles = self.held_out.styles
        name = self.first.name
        figures = [
            replace(rank, features=name)
            for rank in rank_figures(ranks(samples, real, styles), styles)
        ]
        if self.training:
            pool = self.vectors(self.first, self.training, "training pictures")
            cheat = rank_figures(ranks(pool[self.retrieved], real, styles), styles)
            renamed = [
                replace(rank, name=f"{rank.name}, nearest caption's picture") for rank in cheat
            ]
            figures += [replace(rank, features=name) for rank in renamed]
        if self.clip is not None:
            captions, repeats = self.held_out.captions, self.plan.repeats
            for title, images in (
                ("samples", self.samples[: len(self.held_out)]),
                ("held-out pictures", self.held_out.images(range(len(self.held_out)))),
            ):
                figure = clip_score_figure(self.clip, images, captions, repeats, self._generator())
                figures.append(replace(figure, name=f"CLIP score of {title}"))
        return figures

    def memorisation(self, training: Reference) -> tuple[list[Figure], Image.Image]:
        """How near samples are to training pictures, with the nearest ones on a sheet."""
        pool = self.vectors(self.first, training, "training pictures")
        samples, real = (nearest(vectors, pool) for vectors in self.first_vectors)
        count = min(ALTERED, len(training))
        places = [place * len(training) // count for place in range(count)]
        copies = self.sample_vectors(
            self.first, altered(training.images(places)), "altered training pictures"
        )
        limit = threshold(pool[places], copies)
        generator = self._generator()
        figures = memorisation_figures(samples, real, limit, self.plan.repeats, generator)
        note = f"near-copy: within {limit:.3g}, as half of slightly altered training pictures are"
        figures = [replace(figure, features=self.first.name, note=note) for figure in figures]
        sheet = sheets.nearest_sheet(self.samples, training, samples, limit)
        return figures, sheet

    def _atoms(self, training: Reference) -> tuple[list[dict[str, Any]], Image.Image]:
        pool = self.vectors(self.first, training, "training pictures")
        training_known, held_out_known = (
            _known(training, pool),
            _known(self.held_out, self.first_vectors[1]),
        )
        things = atom.choose_things(training_known, self.plan.things)
        atoms = atom.make_atoms(training_known, self.plan.things)
        images = self._sample([item.prompt for item in atoms], self.settings, "sampling atoms")
        vectors = self.sample_vectors(self.first, images, "atoms")
        self.report("training checkers", 0, 1)
        able_checkers = checkers(training_known, held_out_known, things)
        self.report("training checkers", 1, 1)
        figures, verdicts = atom.atom_figures(atoms, images, vectors, able_checkers)
        facts = self._figures(figures, self.first.name)
        return facts, sheets.atom_sheet(images, atoms, verdicts)

    def _diversity(self) -> tuple[Figure, Image.Image]:
        plan = self.plan
        count = min(plan.diversity_prompts, len(self.held_out))
        places = [place * len(self.held_out) // count for place in range(count)]
        prompts = [self.held_out.captions[place] for place in places]
        every = [prompt for prompt in prompts for _ in range(plan.diversity_seeds)]
        images = self._sample(every, self.settings, "sampling seeds")
        vectors = self.sample_vectors(self.first, images, "seeds")
        grouped = torch.stack(vectors.split(plan.diversity_seeds))  # type: ignore[no-untyped-call]
        real, styles = self.first_vectors[1], self.held_out.styles
        rows = [
            [p for p, style in enumerate(styles) if style == kind] for kind in sorted(set(styles))
        ]
        apart = [mean_distance(real[row]) for row in rows if len(row) > 1]
        reference = sum(apart) / len(apart) if apart else mean_distance(real)
        figure = diversity_figure(grouped, reference, plan.repeats, self._generator())
        sheet = sheets.seed_sheet(images, prompts, plan.diversity_seeds)
        return replace(figure, features=self.first.name), sheet

    def _curves(self) -> dict[str, list[dict[str, Any]]]:
        """Figures of some of the prompts over steps and over guidance, a point for each value."""
        curves: dict[str, list[dict[str, Any]]] = {}
        known: dict[Settings, list[dict[str, Any]]] = {}
        values = {"steps": self.plan.curve_steps, "guidance": self.plan.curve_guidance}
        for name, numbers in values.items():
            for number in numbers:
                chosen = replace(self.settings, **{name: number})  # type: ignore[arg-type]
                if chosen not in known:
                    title = f"sampling at {name} {number:g}"
                    known[chosen] = self._figures(self._point(chosen, title), self.first.name)
                curves.setdefault(name, []).append({name: number, "figures": known[chosen]})
        return curves

    def _point(self, settings: Settings, title: str) -> list[Figure]:
        count = min(self.plan.curve_prompts, len(self.held_out))
        places = [place * len(self.held_out) // count for place in range(count)]
        begin = time.perf_counter()
        images = self._sample([self.held_out.captions[p] for p in places], settings, title)
        seconds = (time.perf_counter() - begin) / count
        vectors = self.sample_vectors(self.first, images, title)
        real, styles = self.first_vectors[1], self.held_out.styles
        order = torch.stack(
            [_rank(vectors[row], real, place, styles) for row, place in enumerate(places)]
        )
        return [
            kernel_figure(vectors, real, self.plan.repeats, self._generator()),
            *rank_figures(order, [styles[place] for place in places]),
            Figure("seconds a picture", seconds, count=count),
        ]

    def _sample_sheet(self) -> Image.Image:
        count = min(24, len(self.held_out))
        places = [place * len(self.held_out) // count for place in range(count)]
        rows = [("real", self.held_out.images(places)), ("sample", self.samples[places])]
        if self.training:
            retrieved = [self.retrieved[place] for place in places]
            rows.append(("nearest caption", self.training.images(retrieved)))
        return sheets.columns_sheet(rows, [self.held_out.captions[place] for place in places])


def _known(pictures: Reference, vectors: Tensor) -> KnownPictures:
    return KnownPictures(
        pictures.images,
        vectors,
        pictures.captions,
        pictures.styles,
        pictures.things,
        pictures.groups,
    )


def _rank(vector: Tensor, real: Tensor, place: int, styles: Sequence[str]) -> Tensor:
    """The rank of one sample's real picture among those of its style."""
    rows = [row for row, style in enumerate(styles) if style == styles[place]]
    apart = (real[rows].double() - vector.double()).norm(dim=1)
    rank: Tensor = (apart <= apart[rows.index(place)]).sum()
    return rank


def about(model: LatentDiffusion) -> dict[str, Any]:
    """What is judged: the model's name, hash, licence, its parts and their sizes."""
    parts = {
        name: kind_of(vars(module(part))["config"])
        for name, part in (
            ("denoiser", model.denoiser),
            ("conditioner", model.conditioner),
            ("autoencoder", model.autoencoder),
        )
        if isinstance(part, torch.nn.Module) and "config" in vars(part)
    }
    dtype = next(module(model.denoiser).parameters()).dtype
    return {
        "name": model.card.name,
        "hash": model.card.hash,
        "licence": combined(model.licences),
        "parts": parts,
        "parameters": parameter_counts(model),
        "precision": str(dtype).removeprefix("torch."),
    }


def written_settings(settings: Settings) -> Mapping[str, Any]:
    """Settings as JSON, every slot written out."""
    return {
        "steps": settings.steps,
        "sampler": SAMPLER.write(SAMPLER.read(settings.sampler)),
        "spacing": SPACING.write(SPACING.read(settings.spacing)),
        "guidance": GUIDANCE.write(GUIDANCE.read(settings.guidance)),
    }
