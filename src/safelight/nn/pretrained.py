"""What networks share that others trained and nobody here does: files of weights, sizes, and the
SAME padding."""

from pathlib import Path

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from safelight.errors import BadInput
from safelight.types.tensors import Images


def weights_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, those in 8 bits as the float32 numbers that they stand
    for.

    A weight in uint8 has a ``scale`` and a ``zero_point`` beside it: w = (weight - zero_point) ·
    scale.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{str(path)!r} cannot be read as safetensors ({error}); name a file of weights."
        ) from None
    for scale in [name for name in tensors if name.endswith(".scale")]:
        layer = scale.removesuffix(".scale")
        weight, zero = tensors[f"{layer}.weight"].float(), tensors.pop(f"{layer}.zero_point")
        tensors[f"{layer}.weight"] = (weight - zero) * tensors.pop(scale)
    return {name: tensor.float() for name, tensor in tensors.items()}


def at_least(kind: str, least: int, images: Images) -> None:
    """BadInput, in the name of ``kind``, for images with a side under ``least`` pixels."""
    height, width = images.shape[-2:]
    if min(height, width) < least:
        raise BadInput(
            f"{kind}: wanted pictures of at least {least} pixels a side, got {width}×{height}."
        )


def native(images: Images, side: int) -> Tensor:
    """Images as squares of ``side`` pixels, bilinear, antialiased where they shrink."""
    if tuple(images.shape[-2:]) == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def same(x: Tensor, stride: int) -> Tensor:
    """Padded for a 3×3 convolution as TensorFlow's SAME: with stride 2, even sides only at the
    right and bottom."""
    height, width = x.shape[-2:]
    left, top = (1 if stride == 1 else side % 2 for side in (width, height))
    return F.pad(x, (left, 1, top, 1))
