"""The configuration of the U-Net. Nothing here imports torch."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from safelight.errors import BadInput

if TYPE_CHECKING:
    from safelight.denoisers.unet.network import UNet


@dataclass(frozen=True)
class Level:
    """One size of the features: how wide they are, and the attention after each residual block.

    ``depth`` transformer blocks, 0 for none; with ``text_only`` even their first attention attends
    to the text alone. ``up``: the depths on the way up, one for each of its residual blocks, where
    they are others.
    """

    width: int = 320
    depth: int = 1
    heads: int = 8
    text_only: bool = False
    up: tuple[int, ...] = ()

    def rising(self, block: int) -> "Level":
        """The level as it is at a block on the way up."""
        return replace(self, depth=self.up[block]) if self.up else self


@dataclass(frozen=True)
class Norm:
    """The group norms of the residual blocks, of plain attention and at the end. ``modulated``:
    time scales and shifts a residual block's second one; else it is added before it (ADM, arXiv
    2105.05233)."""

    groups: int = 32
    eps: float = 1e-5
    modulated: bool = False


@dataclass(frozen=True)
class Config:
    """A U-Net for latents of ``channels``; each level after the first halves the size. A width of 0
    closes a way in.

    ``blocks`` residual blocks a level on the way down, one more on the way up; ``middle`` as a
    level's ``depth``, -1 if it is one residual block. Without text the attention is plain
    (``depth`` 1). ``classes``: how many noise levels, or classes, the network knows by
    ``scalars["noise_level"]``; ``guidance``: how many sinusoids embed the scale of guidance
    that was distilled into it. ``linear`` says how files of this network hold the ends of a
    transformer: as linear layers, or as 1×1 convolutions; they compute the same.
    ``residual_resize``: sizes change inside residual blocks (ADM, arXiv 2105.05233).
    """

    channels: int = 4
    extra_channels: int = 0
    levels: tuple[Level, ...] = (Level(128, 0, 4), Level(256, 1, 4), Level(384, 1, 6))
    blocks: int = 2
    middle: int = 1
    text_width: int = 256
    vector_width: int = 0
    classes: int = 0
    guidance: int = 0
    norm: Norm = field(default_factory=Norm)
    linear: bool = True
    residual_resize: bool = False

    def __post_init__(self) -> None:
        if (
            not self.levels
            or min(self.channels, self.blocks, *(one.width for one in self.levels)) < 1
        ):
            raise BadInput(
                f"a U-Net wants channels, blocks, and levels that each have a width, got {self}."
            )
        ways = (
            self.extra_channels,
            self.text_width,
            self.vector_width,
            self.classes,
            self.guidance,
        )
        if min(self.middle + 1, *ways) < 0:
            raise BadInput(
                f"a U-Net's extra_channels, middle, widths and classes are 0 or more, got {self}."
            )
        for one in self.levels:
            if one.width % self.norm.groups:
                raise BadInput(
                    f"a level {one.width} wide cannot be normalised in {self.norm.groups} groups "
                    "alike."
                )
            if one.heads < 1 or (any((one.depth, *one.up)) and one.width % one.heads):
                raise BadInput(
                    f"a level {one.width} wide cannot be shared by {one.heads} heads alike."
                )
            if one.up and (len(one.up) != self.blocks + 1 or min(one.up) < 0):
                raise BadInput(
                    f"wanted {self.blocks + 1} depths on the way up of each level, got {one.up}."
                )
        deepest = max(
            self.middle, *(max(one.depth, *one.up, one.text_only * 2) for one in self.levels)
        )
        if not self.text_width and deepest > 1:
            raise BadInput(
                "plain attention has a depth of 1 and no text: give a text_width, or levels of "
                "depth 1."
            )

    @property
    def embedding_width(self) -> int:
        """The width of the embedding of time."""
        return 4 * self.levels[0].width

    def build(self) -> "UNet":
        """The network, freshly initialised: its answer is zero everywhere."""
        from safelight.denoisers.unet.network import UNet

        return UNet(self)
