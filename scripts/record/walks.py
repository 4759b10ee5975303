"""Walks of a recorded network: by a scheduler of diffusers, or by a formula written out."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Ask = Callable[[Tensor, Any], Tensor]  # what a network answers to noisy latents at a time


def guided(ask: Callable[[Tensor, Any, int], Tensor], scale: float) -> Ask:
    """Classifier-free guidance: ``ask`` with the prompt, 0, and with the negative one, 1."""

    def answer(noisy: Tensor, time: Any) -> Tensor:
        negative = ask(noisy, time, 1)
        return negative + scale * (ask(noisy, time, 0) - negative)

    return answer


def scheduled(scheduler: Any, ask: Ask, start: Tensor, steps: int = 10) -> Tensor:
    """The start, and the latents after each call of the network."""
    scheduler.set_timesteps(steps)
    seen = [start]
    for time in scheduler.timesteps:
        answer = ask(scheduler.scale_model_input(seen[-1], time), time)
        seen.append(scheduler.step(answer, time, seen[-1]).prev_sample)
    return torch.stack(seen)


def euler(velocity: Ask, start: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Straight steps of a flow; the latents at each sigma, and what each velocity takes for
    clean."""
    seen, clean = [start], []
    for now, then in pairwise(sigmas):
        found = velocity(seen[-1], now)
        clean.append(seen[-1] - now * found)
        seen.append(seen[-1] + (then - now) * found)
    return torch.stack(seen), torch.stack(clean)


def dpmpp_2m(
    clean: Ask, start: Tensor, alphas: Tensor, sigmas: Tensor, lower_last: bool = False
) -> Tensor:
    """DPM-Solver++ (arXiv 2211.01095, algorithm 2) over nodes that end at sigma 0 or, with
    ``lower_last``, by a step of the first order. ``clean`` is asked by the number of its node."""
    logs, seen, before = (alphas / sigmas).log(), [start], None
    for index in range(len(sigmas) - 1):
        found = clean(seen[-1], index)
        mixed, step = found, logs[index + 1] - logs[index]
        if sigmas[index + 1] == 0:
            seen.append(found)
            break
        if before is not None and not (lower_last and index == len(sigmas) - 2):
            ratio = (logs[index] - logs[index - 1]) / step
            mixed = found + (found - before) / (2 * ratio)
        kept = sigmas[index + 1] / sigmas[index]
        seen.append((kept * seen[-1] - alphas[index + 1] * torch.expm1(-step) * mixed).float())
        before = found
    return torch.stack(seen)


def dpmpp_2m_of_the_table(noise: Ask, start: Tensor) -> Tensor:
    """Ten steps evenly in the time of Stable Diffusion 1, whose alphas are interpolated in their
    logarithm."""
    times = torch.linspace(1, 0.001, 11, dtype=torch.float64)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    table, places = (1 - betas).cumprod(0).log() / 2, (1000 * times - 1).clamp(0, 999)
    below = places.floor().long().clamp(max=998)
    alphas = torch.lerp(table[below], table[below + 1], places - below).exp()
    sigmas = (1 - alphas**2).sqrt()

    def clean(noisy: Tensor, index: int) -> Tensor:
        return (noisy - sigmas[index] * noise(noisy, places[index].float())) / alphas[index]

    return dpmpp_2m(clean, start, alphas, sigmas, lower_last=True)
