"""Diversity over seeds: how far apart the pictures of one prompt are."""

from dataclasses import replace

import torch
from torch import Tensor

from safelight.evaluation.intervals import Figure, mean
from safelight.evaluation.neighbourhoods import distances


def mean_distance(vectors: Tensor) -> float:
    """The mean distance of all pairs of vectors (n, d)."""
    n = len(vectors)
    return float(distances(vectors, vectors).sum() / (n * (n - 1)))


def diversity_figure(
    samples: Tensor, reference: float, repeats: int, generator: torch.Generator
) -> Figure:
    """The mean distance between seeds of a prompt, over that between real pictures of one style.

    ``samples`` are (prompts, seeds, d). 0 says that every seed gives the same picture; 1 that the
    prompt decides nothing but the style. The interval is over prompts.
    """
    values = torch.tensor(
        [mean_distance(vectors) / reference for vectors in samples], dtype=torch.float64
    )
    figure = mean("diversity over seeds", values, repeats, generator)
    return replace(figure, note=f"{samples.shape[0]} prompts of {samples.shape[1]} seeds")
