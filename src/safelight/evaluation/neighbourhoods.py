"""Fidelity and variety by nearest neighbours: precision and recall, density and coverage.

Vectors are (n, d), of real and of generated pictures. Each set is taken as the union of balls about
its vectors, each as large as the distance to the k-th nearest other vector of that set.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import BadInput
from safelight.evaluation.intervals import Figure, mean

PRECISION_NEIGHBOURS = 3  # Kynkäänniemi et al., section 3
DENSITY_NEIGHBOURS = 5  # Naeem et al., section 4


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """What each picture contributes; the mean of each tensor is the measure of that name.

    ``precision``, ``density``: of generated pictures (m,); ``recall``, ``coverage``: of real ones
    (n,).
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (n, m) in float64; differences are taken, so that equals are 0 apart."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def radii(vectors: Tensor, neighbours: int) -> Tensor:
    """The distance from each vector to its k-th nearest other one (n,)."""
    if len(vectors) <= neighbours:
        raise BadInput(
            f"neighbours: wanted more than {neighbours} pictures in each set, got {len(vectors)}."
        )
    return distances(vectors, vectors).kthvalue(neighbours + 1, dim=1).values  # itself is the first


def neighbourhoods(
    real: Tensor,
    generated: Tensor,
    precision_neighbours: int = PRECISION_NEIGHBOURS,
    density_neighbours: int = DENSITY_NEIGHBOURS,
) -> Neighbourhoods:
    """All four measures.

    Precision: is a generated picture in a ball of a real one; recall: the reverse (Kynkäänniemi et
    al., arXiv 1904.06991, eq. 1). Density: in how many real balls a generated picture lies, over k;
    coverage: does the ball of a real picture hold a generated one (Naeem et al., arXiv 2002.09797,
    eq. 3 and 4). BadInput for sets of no more than k.
    """
    between = distances(real, generated)  # (n, m)
    few, more = radii(real, precision_neighbours), radii(real, density_neighbours)
    around = radii(generated, precision_neighbours)
    return Neighbourhoods(
        precision=(between <= few[:, None]).any(0).double(),
        recall=(between <= around[None]).any(1).double(),
        density=(between <= more[:, None]).sum(0).double() / density_neighbours,
        coverage=(between.min(1).values <= more).double(),
    )


def neighbourhood_figures(
    real: Tensor, generated: Tensor, repeats: int, generator: torch.Generator
) -> list[Figure]:
    """The four measures with bootstrap intervals over the pictures that each is a mean of.

    The balls stay as they are: drawing them anew would repeat pictures and shrink the balls.
    """
    values = vars(neighbourhoods(real, generated))
    return [mean(name, values[name], repeats, generator) for name in values]
