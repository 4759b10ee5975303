"""Images of any size: padded to a size that an autoencoder takes, and cropped back exactly."""

import torch
from torch import Tensor

from safelight.errors import BadInput
from safelight.types.networks import Autoencoder
from safelight.types.tensors import Images


def pad(images: Images, multiple: int) -> Images:
    """Images (b, c, h, w) mirrored at the right and the bottom until both sides are multiples."""
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
    """The upper left part of images, which undoes ``pad``."""
    return images[..., :height, :width]


def require_numbers(images: Images) -> None:
    """Raises BadInput for pixels that are NaN or infinite."""
    if not images.isfinite().all():
        raise BadInput(
            "images: wanted numbers in [-1, 1], got pixels that are NaN or infinite; mend the "
            "picture."
        )


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, images: Images) -> Images:
    """Images (b, c, h, w) of any size encoded and decoded: float32, clamped to [-1, 1].

    Raises BadInput for pixels that are NaN or infinite.
    """
    require_numbers(images)
    height, width = images.shape[-2:]
    decoded = autoencoder.decode(autoencoder.encode(pad(images, autoencoder.factor)).mode())
    return crop(decoded, height, width).float().clamp(-1, 1)


def _mirrored(side: int, extra: int) -> Tensor:
    """The indices 0 … side + extra - 1 reflected: 0 1 2 1 0 1 …, without repeating the edge."""
    period = max(1, 2 * (side - 1))
    indices = torch.arange(side + extra) % period
    return torch.minimum(indices, period - indices)
