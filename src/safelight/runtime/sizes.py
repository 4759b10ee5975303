"""Images of any size: padded to what an autoencoder can take, and cropped back exactly."""

import torch
from torch import Tensor

from safelight.errors import BadInput
from safelight.types.networks import Autoencoder
from safelight.types.tensors import Images


def pad(images: Images, multiple: int) -> Images:
    """(b, c, h, w), mirrored beyond the right and the bottom edge until both sides are multiples,
    however small."""
    if 0 in images.shape[-2:]:
        raise BadInput(
            f"images: wanted at least one pixel, got {images.shape[-1]}×{images.shape[-2]}."
        )
    for axis in (-2, -1):
        side = images.shape[axis]
        if extra := -side % multiple:
            images = images.index_select(axis, _mirrored(side, extra).to(images.device))
    return images


def crop(images: Images, height: int, width: int) -> Images:
    """The upper left part, which undoes ``pad``."""
    return images[..., :height, :width]


def require_numbers(images: Images) -> None:
    """BadInput for pixels that are no numbers."""
    if not images.isfinite().all():
        raise BadInput(
            "images: wanted numbers in [-1, 1], got pixels that are NaN or infinite; mend the picture."
        )


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, images: Images) -> Images:
    """What comes back of images (b, c, h, w) of any size: float32 of the same size, clamped to [-1,
    1].

    Raises BadInput for pixels that are no numbers.
    """
    require_numbers(images)
    height, width = images.shape[-2:]
    again = autoencoder.decode(autoencoder.encode(pad(images, autoencoder.factor)).mode())
    return crop(again, height, width).float().clamp(-1, 1)


def _mirrored(side: int, extra: int) -> Tensor:
    """The places 0 … side + extra - 1 read back and forth: 0 1 2 1 0 1 …; the edge itself is not
    repeated."""
    period = max(1, 2 * (side - 1))
    places = torch.arange(side + extra) % period
    return torch.minimum(places, period - places)
