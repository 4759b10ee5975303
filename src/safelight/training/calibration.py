"""What an autoencoder owns when its training is done: the scale of its latents, and how they map to colours."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from safelight.model import Preview, module
from safelight.nn.latent_scale import LatentScale
from safelight.types.networks import Autoencoder
from safelight.types.tensors import Images, Latents


@torch.no_grad()
def finish(autoencoder: Autoencoder, pictures: Iterable[Images]) -> Preview:
    """Give the autoencoder the scale of its latents on these ``pictures``; returns their map to colours.

    Each channel's mean and deviation become 0 and 1 over all places of all pictures, its spread included.
    """
    scale = next(one for one in module(autoencoder).modules() if isinstance(one, LatentScale))
    encodings, small = [], []
    for images in pictures:
        encodings.append(autoencoder.encode(images))
        small.append(F.adaptive_avg_pool2d(images, (*encodings[-1].mean.shape[2:],)))
    raw = [scale.unscaled(one) for one in encodings]
    scale.measure(encodings)
    return fit([scale.standard(one).mode() for one in raw], small)


def fit(latents: Iterable[Latents], small: Iterable[Images]) -> Preview:
    """The affine map from latents (b, c, h, w) that is nearest, by least squares, to ``small`` images (b, 3, h, w).

    Of the maps that are as near (a channel may be constant) it is the smallest.
    """
    a = torch.cat([one.double().cpu().movedim(1, -1).flatten(0, -2) for one in latents])  # (n, c)
    b = torch.cat([one.double().cpu().movedim(1, -1).flatten(0, -2) for one in small])  # (n, 3)
    a = F.pad(a, (0, 1), value=1.0)
    weights = torch.linalg.lstsq(a.T @ a, a.T @ b, driver="gelsd").solution  # (c + 1, 3)
    return tuple(tuple(row) for row in weights.T.tolist())
