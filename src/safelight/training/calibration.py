"""The end of training an autoencoder: the scale of its latents, and their map to colours."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from safelight.card import Preview
from safelight.model import module
from safelight.nn.latent_scale import LatentScale
from safelight.types.networks import Autoencoder
from safelight.types.tensors import Images, Latents


@torch.no_grad()
def calibrate(autoencoder: Autoencoder, pictures: Iterable[Images]) -> Preview:
    """Set the scale of the latents from these ``pictures``; returns their map to colours.

    Then each latent channel has mean 0 and deviation 1 over all places of all pictures, counting
    the deviation of each encoding.
    """
    scale = next(m for m in module(autoencoder).modules() if isinstance(m, LatentScale))
    encodings, small = [], []
    for images in pictures:
        encodings.append(autoencoder.encode(images))
        small.append(F.adaptive_avg_pool2d(images, (*encodings[-1].mean.shape[2:],)))
    raw = [scale.unscaled(encoding) for encoding in encodings]
    scale.measure(encodings)
    return fit_preview([scale.standard(encoding).mode() for encoding in raw], small)


def fit_preview(latents: Iterable[Latents], small: Iterable[Images]) -> Preview:
    """The affine map from latents (b, c, h, w) to ``small`` images (b, 3, h, w), by least squares.

    Of several best maps (a channel may be constant) it is the one with the smallest norm.
    """
    a = torch.cat([_rows(batch) for batch in latents])  # (n, c)
    b = torch.cat([_rows(batch) for batch in small])  # (n, 3)
    a = F.pad(a, (0, 1), value=1.0)
    weights = torch.linalg.lstsq(a.T @ a, a.T @ b, driver="gelsd").solution  # (c + 1, 3)
    return tuple(tuple(row) for row in weights.T.tolist())


def _rows(batch: Tensor) -> Tensor:
    """(b, c, h, w) as one row of channels for each place, in float64."""
    return batch.double().cpu().movedim(1, -1).flatten(0, -2)
