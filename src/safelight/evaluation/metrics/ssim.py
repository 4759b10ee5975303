"""Structural similarity of luminance (SSIM; Wang et al. 2004, IEEE TIP 13(4)).

A Gaussian window of 11 pixels and deviation 1.5, constants of 0.01 and 0.03 of the range 255; the
mean over windows that lie inside the picture, and over pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from safelight.errors import BadInput
from safelight.evaluation.metric import Mean, Pairs, to_8bit
from safelight.types.tensors import Images

WINDOW, DEVIATION = 11, 1.5
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)


@dataclass(frozen=True)
class Config:
    """There are no options."""

    def build(self) -> "SSIM":
        return SSIM()


class SSIM:
    def __init__(self) -> None:
        self._mean = Mean()

    def update(self, pairs: Pairs) -> None:
        self._mean.add(ssim(pairs.before, pairs.after))

    def compute(self) -> Iterator[tuple[str, float]]:
        yield "SSIM (luminance)", self._mean.value


def ssim(before: Images, after: Images) -> Tensor:
    """The similarity of pictures in [-1, 1], float64 (b,). BadInput for sides under 11 pixels."""
    height, width = before.shape[-2:]
    if min(height, width) < WINDOW:
        raise BadInput(
            f"SSIM: wanted pictures of at least {WINDOW} pixels a side, got {width}×{height}."
        )
    x, y = (_luminance(images) for images in (before, after))
    mean_x, mean_y = _windows(x), _windows(y)
    variance_x, variance_y = _windows(x * x) - mean_x**2, _windows(y * y) - mean_y**2
    covariance = _windows(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (numerator / denominator).flatten(1).mean(1)


def _luminance(images: Images) -> Tensor:
    """(b, 1, h, w) in [0, 255]; without three channels, their mean."""
    values = to_8bit(images)
    shares = LUMINANCE if values.shape[1] == 3 else (1 / values.shape[1],) * values.shape[1]
    return (values * torch.tensor(shares, dtype=values.dtype).view(-1, 1, 1)).sum(1, keepdim=True)


def _windows(values: Tensor) -> Tensor:
    places = torch.arange(WINDOW, dtype=values.dtype) - WINDOW // 2
    weights = torch.exp(-places.square() / (2 * DEVIATION**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(values, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
