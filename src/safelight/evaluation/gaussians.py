"""Sets of vectors as Gaussians, and the distance between two of them."""

import torch
from torch import Tensor


class Moments:
    """The mean and covariance of vectors that come in batches, in float64, by Chan's update."""

    def __init__(self) -> None:
        self.count, self.width = 0, 0
        self.mean = self._square = torch.zeros(())

    def add(self, vectors: Tensor) -> None:
        """Include vectors (b, d)."""
        vectors = vectors.detach().double().cpu()
        count, mean = len(vectors), vectors.mean(0)
        centred = vectors - mean
        square = centred.T @ centred
        if not self.count:
            self.count, self.width, self.mean, self._square = count, vectors.shape[1], mean, square
            return
        total, gap = self.count + count, mean - self.mean
        self._square = self._square + square + torch.outer(gap, gap) * (self.count * count / total)
        self.mean, self.count = self.mean + gap * (count / total), total

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (d, d) of two or more vectors."""
        return self._square / (self.count - 1)


def frechet(first: Moments, second: Moments) -> float:
    """The Fréchet distance of Gaussians, |m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½); never negative.

    (Dowson and Landau 1982.) The trace of the root is the sum of the roots of the eigenvalues of
    the symmetric matrix C₁^½ C₂ C₁^½, so that singular covariances do no harm.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    spread = first.covariance.trace() + second.covariance.trace() - 2 * cross
    return float(((first.mean - second.mean).square().sum() + spread).clamp(min=0))
