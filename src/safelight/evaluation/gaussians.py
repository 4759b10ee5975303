"""Sets of vectors as Gaussians, and the distance between two of them."""

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of vectors that come in batches, in float64, by Chan's update: nothing else is kept."""

    def __init__(self) -> None:
        self.count, self.width = 0, 0
        self.mean = self._square = torch.zeros(())

    def add(self, vectors: Tensor) -> None:
        """Vectors (b, d)."""
        some = vectors.detach().double().cpu()
        count, mean = len(some), some.mean(0)
        apart = some - mean
        square = apart.T @ apart
        if not self.count:
            self.count, self.width, self.mean, self._square = count, some.shape[1], mean, square
            return
        total, gap = self.count + count, mean - self.mean
        self._square = self._square + square + torch.outer(gap, gap) * (self.count * count / total)
        self.mean, self.count = self.mean + gap * (count / total), total

    @property
    def covariance(self) -> Tensor:
        """Unbiased, (d, d); wants two vectors or more."""
        return self._square / (self.count - 1)


def frechet(one: Moments, other: Moments) -> float:
    """|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½) (Dowson and Landau 1982, for Gaussians; never negative).

    The trace of the root is the sum of the roots of the eigenvalues of C₁^½ C₂ C₁^½, which is symmetric: no root of a
    general matrix is taken, so that singular covariances do no harm.
    """
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    spread = one.covariance.trace() + other.covariance.trace() - 2 * cross
    return float(((one.mean - other.mean).square().sum() + spread).clamp(min=0))
