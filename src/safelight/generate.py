"""The one body: a task becomes steps, the last step becomes pictures."""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from safelight import __version__
from safelight.config import kind_of
from safelight.diffusion.guidance import guided
from safelight.diffusion.noise import BrownianNoise, SeededNoise
from safelight.media.pictures import to_pictures
from safelight.model import LatentDiffusion, Whole
from safelight.settings import DEFAULTS, GUIDANCE, SAMPLER, SPACING, Settings
from safelight.task import Task
from safelight.types import Condition, Latents, Negative, NoiseLevel, Prompt, Step


def generate(
    model: LatentDiffusion,
    task: Task,
    settings: Settings | None = None,
    watch: Callable[[Step], None] | None = None,
) -> list[Image.Image]:
    """The pictures of a task. ``watch`` is shown every step. Raises BadInput for what cannot be done."""
    run = steps(model, task, settings)
    while True:
        try:
            step = next(run)
        except StopIteration as end:
            pictures: list[Image.Image] = end.value
            return pictures
        if watch:
            watch(step)


@torch.inference_mode()
def steps(
    model: LatentDiffusion, task: Task, settings: Settings | None = None
) -> Generator[Step, None, list[Image.Image]]:
    """The same as a generator of steps, for previews, progress and cancelling; it returns the pictures.

    Picture i is seeded with ``seed + i``: it comes out the same alone or in any batch.
    """
    chosen = resolve(model, settings)
    assert chosen.steps is not None
    assert chosen.seed is not None
    assert chosen.count is not None
    whole = model.need()
    sampler, spacing = SAMPLER.read(chosen.sampler), SPACING.read(chosen.spacing)
    guidance = GUIDANCE.read(chosen.guidance)
    seeds = [chosen.seed + i for i in range(chosen.count)]
    noise = SeededNoise(seeds)
    start = task.start(whole, noise, chosen.count)
    schedule = whole.process.schedule
    times = spacing(chosen.steps, schedule, start.begin)
    condition = whole.denoiser.prepare(whole.conditioner(start.prompts))
    negative = _negative(whole, start.prompts, start.negatives)
    waist = guided(whole.process, {"main": whole.denoiser}, guidance, condition, negative)
    latents = start.latents.to(_device(whole))
    if start.begin == 1:
        latents = latents * _spread(schedule(times[0]))
    source = BrownianNoise(seeds) if sampler.about.brownian else noise
    for step in sampler(start.wrap(waist), latents, times, schedule, source):
        latents = step.noisy
        yield step
    return start.finish(_decoded(whole, latents))


def resolve(model: LatentDiffusion, settings: Settings | None = None) -> Settings:
    """Settings in which nothing is left open: the request's, else the card's, else the defaults."""
    return (settings or Settings()).over(model.card.settings.over(DEFAULTS))


def recipe(model: LatentDiffusion, task: Task, settings: Settings, index: int = 0) -> dict[str, Any]:
    """How picture ``index`` of a request was made, as JSON: enough to make it again alone."""
    chosen = resolve(model, settings)
    assert chosen.seed is not None
    return {
        "safelight": __version__,
        "model": {"name": model.card.name, "hash": model.card.hash, "licence": model.card.licence},
        "task": {"kind": kind_of(task), **asdict(task)},  # type: ignore[call-overload]
        "settings": {
            **asdict(chosen),
            "sampler": SAMPLER.write(SAMPLER.read(chosen.sampler)),
            "spacing": SPACING.write(SPACING.read(chosen.spacing)),
            "guidance": GUIDANCE.write(GUIDANCE.read(chosen.guidance)),
            "seed": chosen.seed + index,
            "count": 1,
        },
    }


def _negative(model: Whole, prompts: Sequence[Prompt], negatives: Sequence[Prompt]) -> Negative:
    """What guidance points away from, made and prepared once for each set of names that it asks for."""
    made: dict[frozenset[str] | None, Condition] = {}

    def negative(only: Collection[str] | None) -> Condition:
        key = None if only is None else frozenset(only)
        if key not in made:
            said = any(prompt.text for prompt in negatives) and only is None
            raw = model.conditioner(negatives) if said else model.conditioner.nothing(prompts, only)
            made[key] = model.denoiser.prepare(raw)
        return made[key]

    return negative


def _decoded(model: Whole, latents: Latents) -> list[Image.Image]:
    """Pictures one by one: memory stays flat, and a picture's bits do not depend on its batch."""
    return [to_pictures(model.autoencoder.decode(one[None]))[0] for one in latents]


def _spread(level: NoiseLevel) -> Tensor:
    """The deviation of latents at ``level``: clean ones have unit variance, and a spacing may begin below t = 1."""
    return (level.alpha**2 + level.sigma**2).sqrt()


def _device(model: Whole) -> torch.device:
    if isinstance(model.denoiser, nn.Module):
        return next(model.denoiser.parameters()).device
    return torch.device("cpu")
