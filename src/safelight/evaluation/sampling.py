"""Samples for judging: a picture of its own for each of many prompts, and what making them
costs."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from safelight.evaluation.intervals import Figure
from safelight.media.pictures import to_images
from safelight.model import CompleteModel, LatentDiffusion, module
from safelight.pipeline import generate
from safelight.settings import Settings
from safelight.task import Start
from safelight.types.diffusion import NoiseSource
from safelight.types.networks import Prompt
from safelight.types.tensors import Images


@dataclass(frozen=True)
class Prompts:
    """A task of one picture for each prompt, of ``size`` pixels (0: the model's own)."""

    prompts: tuple[str, ...]
    size: int = 0

    def start(self, model: CompleteModel, noise: NoiseSource, count: int) -> Start:
        """Pure noise; ``count`` must be the number of prompts."""
        assert count == len(self.prompts)
        sides = tuple(self.size or side for side in model.card.size)
        latents = noise(model.latent_shape(count, sides))
        return Start(latents, [Prompt(prompt) for prompt in self.prompts], [Prompt("")] * count)


def sample(
    model: LatentDiffusion,
    prompts: Sequence[str],
    settings: Settings,
    report: Callable[[int, int], None],
    size: int = 0,
    batch: int = 8,
) -> Images:
    """A picture for each prompt as 8 bits hold it, float32 (n, 3, h, w) in [-1, 1].

    Picture i has the seed ``seed + i``: it can be made again alone.
    """
    batches = []
    seed = settings.seed or 0
    for start in range(0, len(prompts), batch):
        chunk = tuple(prompts[start : start + batch])
        chosen = replace(settings, seed=seed + start, count=len(chunk))
        batches.append(to_images(generate(model, Prompts(chunk, size), chosen)))
        report(min(start + batch, len(prompts)), len(prompts))
    return torch.cat(batches)


def speed_figures(
    model: LatentDiffusion,
    prompt: str,
    settings: Settings,
    repeats: int = 3,
    batch: int = 8,
    memory: bool = True,
) -> list[Figure]:
    """Seconds for a picture alone and in a batch, and the most memory that the process needed.

    The first picture, which warms up, is not counted. The median of ``repeats`` is given, with the
    least and the most as its interval. ``memory`` is for a process that has done nothing else: the
    peak is that of its whole life, but on a GPU.
    """
    if _is_cuda(model):
        torch.cuda.reset_peak_memory_stats()
    alone = _seconds(model, [prompt], settings, repeats)
    together = [seconds / batch for seconds in _seconds(model, [prompt] * batch, settings, repeats)]
    peak = Figure("peak memory, MiB", _peak(model) / 2**20, count=1, note=_memory_note(model))
    return [
        Figure("seconds a picture, alone", *_spread(alone), repeats),
        Figure(f"seconds a picture, {batch} in a batch", *_spread(together), repeats),
        *([peak] if memory or _is_cuda(model) else []),
    ]


def parameter_counts(model: LatentDiffusion) -> dict[str, int]:
    """How many parameters each part has."""
    parts = {name: vars(model)[name] for name in ("autoencoder", "conditioner", "denoiser")}
    return {
        name: sum(parameter.numel() for parameter in module(part).parameters())
        for name, part in parts.items()
        if part is not None
    }


def _seconds(
    model: LatentDiffusion, prompts: Sequence[str], settings: Settings, repeats: int
) -> list[float]:
    durations = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        sample(model, prompts, settings, lambda done, total: None, batch=len(prompts))
        durations.append(time.perf_counter() - begin)
    return durations[1:]


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def _peak(model: LatentDiffusion) -> float:
    if _is_cuda(model):
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024  # kilobytes but for macOS
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _memory_note(model: LatentDiffusion) -> str:
    return "allocated on the GPU" if _is_cuda(model) else "resident, of the whole process"


def _is_cuda(model: LatentDiffusion) -> bool:
    return next(module(model.denoiser).parameters()).is_cuda
