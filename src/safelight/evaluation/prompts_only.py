"""What can be said of a denoiser without real pictures: speed, and how far apart seeds are."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import torch

from safelight.evaluation import sheets
from safelight.evaluation.diversity import mean_distance
from safelight.evaluation.generation import Evaluation, Plan, Progress, about, written_settings
from safelight.evaluation.intervals import mean
from safelight.evaluation.reference import picture_vectors
from safelight.evaluation.sampling import sample, speed_figures
from safelight.model import LatentDiffusion
from safelight.pipeline import resolve
from safelight.types.networks import Features


def evaluate_prompts(
    model: LatentDiffusion,
    prompts: Sequence[str],
    networks: Sequence[Features],
    plan: Plan,
    report: Progress,
) -> Evaluation:
    """Speed, memory and the distance between seeds of each prompt, with a sheet of all samples."""
    settings = resolve(model, plan.settings)
    seeds = max(2, plan.diversity_seeds)
    report("timing", 0, 1)
    speed = speed_figures(model, prompts[0], settings, plan.speed_repeats, plan.batch)
    report("timing", 1, 1)
    every = [prompt for prompt in prompts for _ in range(seeds)]
    progress = partial(report, "sampling seeds")
    images = sample(model, every, settings, progress, plan.size, plan.batch)
    figures = []
    for network in networks:
        vectors = picture_vectors(
            network, lambda places: images[list(places)], len(images), partial(report, network.name)
        )
        apart = [mean_distance(item) for item in torch.split(vectors, seeds)]
        generator = torch.Generator().manual_seed(settings.seed or 0)
        values = torch.tensor(apart, dtype=torch.float64)
        figure = mean("distance between seeds", values, plan.repeats, generator)
        note = f"{len(prompts)} prompts of {seeds} seeds"
        figures.append(replace(figure, features=network.name, note=note))
    facts = {
        "what": "generation",
        "judged": "denoiser",
        "model": about(model),
        "settings": written_settings(settings),
        "seed": settings.seed,
        "prompts": list(prompts),
        "diversity": [asdict(item) for item in figures],
        "speed": [asdict(item) for item in speed],
    }
    return Evaluation(facts, {"seeds": sheets.seed_sheet(images, prompts, seeds)})
