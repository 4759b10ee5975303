"""Sizes that a factor divides, and the sentence for those that it does not."""

from safelight.errors import BadInput
from safelight.types.shapes import Shape


def reduced(
    kind: str, image_shape: Shape, channels: int, latent_channels: int, factor: int
) -> Shape:
    """(b, channels, h, w) → (b, latent_channels, h/f, w/f); BadInput, in the name of ``kind``, if
    that cannot be."""
    *batch, given, height, width = image_shape
    if given != channels:
        raise BadInput(f"{kind}: wanted images of {channels} channels, got {given}.")
    if height % factor or width % factor or not height or not width:
        near = [max(1, round(side / factor)) * factor for side in (width, height)]
        raise BadInput(
            f"{kind}: wanted a height and width that are multiples of {factor}, got "
            f"{width}×{height}; "
            f"the nearest is {near[0]}×{near[1]}."
        )
    return (*batch, latent_channels, height // factor, width // factor)


def split(pairs: int, axes: int) -> tuple[int, ...]:
    """``pairs`` shared out among ``axes`` as evenly as they go, the first axes taking what is left
    over."""
    if pairs < axes:
        raise BadInput(
            f"heads of {2 * pairs} channels are too narrow for positions on {axes} axes; "
            "use fewer heads."
        )
    return tuple(pairs // axes + (axis < pairs % axes) for axis in range(axes))
