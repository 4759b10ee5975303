"""Memorisation: are samples nearer to training pictures than held-out real pictures are."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from safelight.evaluation.intervals import Figure, percentiles, share, weights
from safelight.evaluation.neighbourhoods import distances
from safelight.types.tensors import Images

QUANTILE = 0.5
"""A copy is as near as this share of slightly altered training pictures are to their originals."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """The distance of each picture to its nearest training picture, and which one that is."""

    distances: Tensor
    places: Tensor


def nearest(vectors: Tensor, training: Tensor, chunk: int = 512) -> Nearest:
    """The nearest of ``training`` (m, d) to each of ``vectors`` (n, d)."""
    closest = [distances(part, training).min(1) for part in torch.split(vectors, chunk)]
    values, indices = zip(*closest, strict=True)
    return Nearest(torch.cat(values), torch.cat(indices))


def altered(images: Images) -> Images:
    """Pictures as someone who copies them might blur the trace: shifted by 2 % of the side, shrunk
    by 5 %, and a little brighter."""
    side = images.shape[-1]
    shift = max(1, round(0.02 * side))
    moved = torch.roll(F.pad(images, (shift,) * 4, mode="replicate"), (shift, -shift), (2, 3))
    moved = moved[..., shift:-shift, shift:-shift]
    border = max(1, round(0.025 * side))
    shrunk = F.interpolate(
        F.pad(moved, (border,) * 4, mode="replicate"),
        tuple(images.shape[-2:]),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return (1.03 * (shrunk + 1) - 1).clamp(-1, 1)


def threshold(originals: Tensor, copies: Tensor) -> float:
    """The distance below which a picture counts as a near-copy, from vectors of training pictures
    and of the same ones ``altered``."""
    apart = (originals.double() - copies.double()).norm(dim=1)
    return float(torch.quantile(apart, QUANTILE))


def memorisation_figures(
    samples: Nearest, held_out: Nearest, limit: float, repeats: int, generator: torch.Generator
) -> list[Figure]:
    """Near-copies among samples and among held-out real pictures, and the ratio of the median
    distances (below 1: samples hug the training pictures more than real pictures do)."""
    copies = [int((neighbours.distances <= limit).sum()) for neighbours in (samples, held_out)]
    ratio = samples.distances.median() / held_out.distances.median()
    medians = []
    for values in (samples.distances, held_out.distances):
        order = values.argsort()
        drawn = weights(len(values), repeats, generator)[:, order].cumsum(1)
        middle = (drawn >= len(values) / 2).int().argmax(1)
        medians.append(values[order][middle])
    low, high = percentiles(medians[0] / medians[1])
    count = len(samples.distances)
    return [
        share("near-copies among samples", copies[0], count),
        share("near-copies among held-out pictures", copies[1], len(held_out.distances)),
        Figure("distance to training, samples over held-out", float(ratio), low, high, count),
    ]
