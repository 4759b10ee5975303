"""What can be measured in a picture of things on a plain ground: colour, number and position.

Images are (b, 3, h, w) in [-1, 1]. Nothing here is learned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from safelight.types.tensors import Images

COLOURS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    *("brown", "black", "grey", "white"),
)
HUES = (
    *((13, "red"), (40, "orange"), (68, "yellow"), (165, "green"), (255, "blue")),
    *((300, "purple"), (342, "pink"), (361, "red")),
)
"""Where each hue ends, in degrees."""

POSITIONS = ("left", "right", "top", "bottom", "centre")
OFF_CENTRE = 0.09
"""How far from the middle, as a share of the side, a centroid counts as beside it."""
APART = 0.035
"""Parts nearer than this share of the side belong to one thing."""
SMALLEST = 0.2
"""Parts smaller than this share of the largest one are not counted."""


def foreground(images: Images, tolerance: float = 0.1) -> Tensor:
    """Where a picture differs from its ground, the median colour of its border: bool (b, h, w)."""
    border = torch.cat(
        [images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=-1
    )
    ground = border.median(dim=-1).values[:, :, None, None]
    apart: Tensor = (images - ground).abs().amax(1)
    return apart > 2 * tolerance


def colours(images: Images) -> list[str]:
    """The name of the colour that most of the foreground has.

    A picture that is all ground (a thing that fills the frame) has the colour that it has most of.
    """
    numbers = _named(images)
    masks = foreground(images)
    names = []
    for picture, mask in zip(numbers, masks, strict=True):
        inside = mask if mask.double().mean() > 0.02 else torch.ones_like(mask)
        counts = torch.bincount(picture[inside], minlength=len(COLOURS))
        names.append(COLOURS[int(counts.argmax())])
    return names


def counts(images: Images) -> list[int]:
    """How many things lie apart on the ground, small parts left out."""
    masks = F.adaptive_max_pool2d(foreground(images).float()[:, None], 64)
    reach = max(1, round(APART * 64 / 2))
    grown = F.max_pool2d(masks, 2 * reach + 1, 1, padding=reach)[:, 0] > 0
    numbers = []
    for mask in grown:
        sizes = torch.bincount(components(mask).flatten())[1:]
        numbers.append(int((sizes >= SMALLEST * sizes.max()).sum()) if len(sizes) else 0)
    return numbers


def positions(images: Images) -> list[str]:
    """On which side of the middle the centroid of the foreground lies, or "centre"."""
    names = []
    for mask in foreground(images).double():
        total = mask.sum()
        if total == 0:
            names.append("centre")
            continue
        height, width = mask.shape
        across = float((mask.sum(0) * torch.arange(width)).sum() / total + 0.5) / width - 0.5
        down = float((mask.sum(1) * torch.arange(height)).sum() / total + 0.5) / height - 0.5
        if max(abs(across), abs(down)) < OFF_CENTRE:
            names.append("centre")
        elif abs(across) >= abs(down):
            names.append("left" if across < 0 else "right")
        else:
            names.append("top" if down < 0 else "bottom")
    return names


def components(mask: Tensor) -> Tensor:
    """Connected parts of a mask (h, w), diagonals included: 0 outside, 1, 2, … inside.

    Each place takes the greatest number of its neighbours until nothing changes.
    """
    numbers = torch.arange(1, mask.numel() + 1, dtype=torch.float64).view(mask.shape) * mask
    while True:
        spread = F.max_pool2d(numbers[None, None], 3, 1, padding=1)[0, 0] * mask
        if torch.equal(spread, numbers):
            break
        numbers = spread
    labels = torch.unique(numbers, return_inverse=True)[1]
    whole: Tensor = labels if (~mask).any() else labels + 1
    return whole


def _named(images: Images) -> Tensor:
    """The number in ``COLOURS`` of each pixel's colour, (b, h, w)."""
    rgb = ((images.double().clamp(-1, 1) + 1) / 2).movedim(1, -1)
    value, least = rgb.amax(-1), rgb.amin(-1)
    chroma = value - least
    saturation = chroma / value.clamp(min=1e-9)
    red, green, blue = rgb.unbind(-1)
    safe = chroma.clamp(min=1e-9)
    sixth = torch.where(
        value == red,
        ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = (60 * sixth) % 360
    ends = torch.tensor([end for end, _ in HUES], dtype=torch.float64)
    names = torch.tensor([COLOURS.index(name) for _, name in HUES])
    number = names[torch.searchsorted(ends, hue.contiguous(), right=True)]
    brown = (hue >= 5) & (hue < 45) & (value < 0.78) & (saturation > 0.25) & (saturation < 0.9)
    number[brown] = COLOURS.index("brown")
    plain = (saturation < 0.2) | (value < 0.2) | ((value < 0.4) & (saturation < 0.4))
    grey = torch.where(value < 0.36, COLOURS.index("black"), COLOURS.index("grey"))
    grey = torch.where(value > 0.85, COLOURS.index("white"), grey)
    return torch.where(plain, grey, number)
