"""Plots of metrics over updates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safelight.files import writing


def plot(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG with a plot of each metric; without matplotlib (extra ``plot``) do nothing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    names = sorted({name for line in lines for name in line} - {"update", "pictures"})
    if not names:
        return
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    for number, name in enumerate(names, 1):
        points = [(line["update"], line[name]) for line in lines if name in line]
        axes = figure.add_subplot(rows, columns, number)
        axes.plot(
            *zip(*points, strict=True),
            linewidth=1.2,
            marker="o" if len(points) < 12 else None,
            markersize=3,
        )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("updates", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    with writing(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
