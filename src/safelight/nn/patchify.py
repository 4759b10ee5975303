"""A grid cut into patches, and put together again, on any number of spatial axes."""

from einops import rearrange
from torch import Tensor

from safelight.errors import BadInput
from safelight.types.shapes import Shape
from safelight.types.tensors import Latents


def patch_grid(space: Shape, patch: int) -> Shape:
    """How many patches lie along each axis of ``space``; BadInput if the patch does not divide
    it."""
    if any(size % patch for size in space):
        raise BadInput(
            f"latents of size {'×'.join(map(str, space))} cannot be cut into patches of {patch}."
        )
    return tuple(size // patch for size in space)


def require_latents(noisy: Latents, channels: int, axes: int = 2) -> None:
    """BadInput unless ``noisy`` has so many channels on so many spatial axes."""
    if noisy.ndim - 2 != axes or noisy.shape[1] != channels:
        raise BadInput(
            f"this transformer takes {channels} channels on {axes} spatial axes, "
            f"not latents of shape {tuple(noisy.shape)}."
        )


def patchify(x: Tensor, patch: int) -> Tensor:
    """(b, c, *space) → (b, n, patch^axes · c), rows of the grid first; BadInput if the patch does
    not divide it."""
    patch_grid(x.shape[2:], patch)
    whole, grid, inner = _names(x.ndim - 2)
    sizes = dict.fromkeys(inner.split(), patch)
    return rearrange(x, f"b c {whole} -> b ({grid}) ({inner} c)", **sizes)


def unpatchify(x: Tensor, patch: int, grid: Shape) -> Tensor:
    """The inverse of ``patchify``: (b, n, patch^axes · c) → (b, c, *space)."""
    whole, outer, inner = _names(len(grid))
    sizes = dict.fromkeys(inner.split(), patch) | dict(zip(outer.split(), grid, strict=True))
    return rearrange(x, f"b ({outer}) ({inner} c) -> b c {whole}", **sizes)


def _names(axes: int) -> tuple[str, str, str]:
    """The axes as einops spells them: whole, their grid, and what lies inside a patch."""
    whole = " ".join(f"(g{axis} p{axis})" for axis in range(axes))
    return (
        whole,
        " ".join(f"g{axis}" for axis in range(axes)),
        " ".join(f"p{axis}" for axis in range(axes)),
    )
