"""Where tokens lie: rotary positions over any number of axes, and the fixed table of sines."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.sizes import split
from safelight.types.shapes import Shape


class Rotation(NamedTuple):
    """A turn for each token of a sequence: ``cos`` and ``sin`` (n, d), the first half of ``sin``
    negated."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn ``x`` (…, n, heads, d): channel i together with channel i + d/2."""
        cos, sin = self.cos.to(x.dtype)[:, None], self.sin.to(x.dtype)[:, None]
        left, right = x.chunk(2, dim=-1)
        return torch.addcmul(x * cos, torch.cat([right, left], dim=-1), sin)


def rotation(positions: Tensor, width: int, base: float = 10_000.0) -> Rotation:
    """The turns for tokens at ``positions`` (n, axes) in heads of ``width`` channels.

    The pairs of channels are shared out among the axes, each with frequencies from 1 down towards
    1/``base``; the product of a turned query and a turned key then depends on the offset between
    their positions alone (RoFormer, arXiv 2104.09864). Computed anew for each grid, in float32: it
    costs a few thousand cosines, and nothing is left behind that a change of device, precision or
    autograd mode could make stale.
    """
    shares = split(width // 2, positions.shape[1])
    angles = [
        positions[:, axis, None].float()
        * base ** -(torch.arange(share, device=positions.device) / share)
        for axis, share in enumerate(shares)
    ]
    angle = torch.cat(angles, dim=-1)  # (n, d/2)
    cos, sin = angle.cos(), angle.sin()
    return Rotation(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))


class PairRotation(NamedTuple):
    """A turn for each token of a sequence that pairs neighbours, channel 2i with 2i + 1: ``cos``,
    ``sin`` (n, d/2)."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn ``x`` (…, n, heads, d), in float32."""
        cos, sin = self.cos[:, None], self.sin[:, None]
        even, odd = x.float()[..., ::2], x.float()[..., 1::2]  # (…, n, heads, d/2)
        return (
            torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
            .flatten(-2)
            .to(x.dtype)
        )


def pair_rotation(positions: Tensor, widths: Sequence[int], base: float = 10_000.0) -> PairRotation:
    """The turns for tokens at ``positions`` (n, axes), of which each axis has so many channels of a
    head: FLUX.

    The angles are products in float64, as there; only their cosines and sines are float32.
    """
    device = positions.device
    places = (
        positions.cpu().double() if device.type == "mps" else positions.double()
    )  # mps has no float64
    angles = [
        places[:, axis, None]
        * base ** -(torch.arange(0, width, 2, device=places.device, dtype=torch.float64) / width)
        for axis, width in enumerate(widths)
    ]
    angle = torch.cat(angles, dim=-1)  # (n, d/2)
    return PairRotation(angle.cos().float().to(device), angle.sin().float().to(device))


def grid_positions(grid: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Where the tokens of a ``grid`` lie, in the order in which they are flattened → (n, axes)."""
    lines = [torch.arange(size, device=device) for size in grid]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).reshape(-1, len(grid))


class PositionTable(nn.Module):
    """A fixed vector for each patch of a square of ``side``: ``table`` (1, side², width), the rows
    one after another.

    It is made of sines (ViT, DiT: arXiv 2212.09748); a file's own table takes its place, and is
    then what is read.
    """

    table: Tensor

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        line = torch.arange(side)
        self.register_buffer("table", sines(line, line, width)[None])

    def middle(self, grid: Shape) -> Tensor:
        """The vectors of a ``grid`` in the middle of the square, (1, n, width) (SD 3: arXiv
        2403.03206, 5.3.2).

        Raises BadInput if it is larger than the square.
        """
        height, width = grid
        if max(grid) > self.side:
            raise BadInput(
                f"there are positions for {self.side}×{self.side} patches, not for "
                f"{height}×{width}: "
                "take a smaller size."
            )
        top, left = (self.side - height) // 2, (self.side - width) // 2
        square = self.table.reshape(1, self.side, self.side, -1)
        return square[:, top : top + height, left : left + width].flatten(1, 2)

    def stretched(self, grid: Shape) -> Tensor:
        """The whole square, seen as a ``grid`` of other sides: the same stretch in finer or coarser
        steps."""
        if tuple(grid) == (self.side, self.side):
            return self.table
        rows, columns = (
            torch.arange(length, dtype=torch.float64) * self.side / length for length in grid
        )
        return sines(rows, columns, self.table.shape[-1], self.table.device)[None].to(
            self.table.dtype
        )


def sines(rows: Tensor, columns: Tensor, width: int, device: torch.device | None = None) -> Tensor:
    """Sines, then cosines, of the columns of a grid and behind them of its rows → (n, width) in
    float32.

    The lines are waved where they are, in float64, which not every ``device`` has.
    """
    share = width // 4
    slower = 10_000.0 ** -(torch.arange(share, dtype=torch.float64, device=rows.device) / share)
    angles = [line.double()[:, None] * slower for line in (rows, columns)]
    down, across = (
        torch.cat([angle.sin(), angle.cos()], dim=-1).float().to(device) for angle in angles
    )
    grid = len(rows), len(columns), width // 2
    return torch.cat([across.expand(grid), down[:, None].expand(grid)], dim=-1).flatten(0, 1)
