"""Configurations of layers that several networks share. Nothing here imports torch."""

from dataclasses import dataclass

from safelight.errors import BadInput


@dataclass(frozen=True)
class Pyramid:
    """Both halves' shape. Each multiplier is a level; each level after the first halves the
    size."""

    width: int
    multipliers: tuple[int, ...]
    blocks: int  # a level in the encoder; the decoder has one more
    channels: int
    groups: int
    attention: tuple[
        int, ...
    ] = ()  # the levels, by factor (1, 2, 4, …), that attend after every block
    middle: bool = True  # attention in the middle

    @property
    def factor(self) -> int:
        """A latent's side in pixels."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def levels(self) -> tuple[tuple[int, bool], ...]:
        """Width, and whether it attends, of each level from the pictures inwards."""
        return tuple(
            (self.width * m, 2**i in self.attention) for i, m in enumerate(self.multipliers)
        )

    def require(self, kind: str, *more: int) -> None:
        """BadInput, in the name of ``kind``, for a shape that cannot be; ``more`` are numbers of
        its own."""
        if (
            not self.multipliers
            or min(self.width, *self.multipliers, self.blocks, self.channels, self.groups) < 1
        ):
            raise BadInput(f"{kind}: every number wants to be at least 1, got {self}.")
        if min(more, default=1) < 1:
            raise BadInput(f"{kind}: every number wants to be at least 1, got {more}.")
        if any(self.width * m % self.groups for m in self.multipliers):
            raise BadInput(
                f"{kind}: every level's width wants to be a multiple of groups = {self.groups}, "
                f"got width {self.width} "
                f"times {self.multipliers}; change width or groups."
            )
        factors = [2**i for i in range(len(self.multipliers))]
        if not set(self.attention) <= set(factors):
            raise BadInput(
                f"{kind}: attention wants levels by their factor, of {factors}, got "
                f"{self.attention}."
            )


@dataclass(frozen=True)
class Codes:
    """How many codes there are, where they lie and how they move.

    ``normalise``: latents and codes lie on the unit sphere (arXiv 2110.04627, section 3.2).
    ``decay``: codes are running means of the latents that chose them (arXiv 1711.00937, appendix
    A.1); 0: they learn by gradient. ``restart``: a code that no latent chose for so many updates
    moves to where latents are; 0: never.
    """

    number: int = 8192
    normalise: bool = False
    decay: float = 0.0
    restart: int = 0

    def __post_init__(self) -> None:
        if self.number < 1 or self.restart < 0 or not 0 <= self.decay < 1:
            raise BadInput(
                "codebook: wanted number ≥ 1, restart ≥ 0 and decay from 0 to below 1, "
                f"got {self.number}, {self.restart} and {self.decay}."
            )
