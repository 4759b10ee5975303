"""The schedule of a table of alpha², as training files hold it; no torch for the usual ones."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import mul

from safelight.diffusion.schedule import LinearBeta, ScaledLinear
from safelight.types.diffusion import Schedule

TOLERANCE = 2e-3
"""How far alpha² may be from that of a schedule: files in half precision hold it rounded."""


def schedule_of(table: Sequence[float], usual: Schedule) -> Schedule | None:
    """The schedule with alpha² as in ``table`` at each step, the ``usual`` one first.

    None if none is known.
    """
    if not isinstance(usual, ScaledLinear | LinearBeta):
        import torch

        from safelight.layouts import schedulers

        return schedulers.of_table(torch.tensor(table), usual)
    steps = len(table)
    known: list[ScaledLinear | LinearBeta] = [usual, replace(usual, zero_terminal=True)]
    if table[0] and table[-2]:
        first = float(f"{1 - table[0]:.3g}")
        last = float(f"{1 - table[-1] / table[-2]:.3g}")
        if 0 < first <= last < 1:
            known += [ScaledLinear(steps, first, last), LinearBeta(steps, first, last)]
    return next((item for item in known if _is_near(item, table)), None)


def _is_near(schedule: ScaledLinear | LinearBeta, table: Sequence[float]) -> bool:
    if schedule.steps != len(table):
        return False
    pairs = zip(_alphas_squared(schedule), table, strict=True)
    return all(abs(own - given) < TOLERANCE for own, given in pairs)


def _alphas_squared(schedule: ScaledLinear | LinearBeta) -> list[float]:
    """Alpha² at each step of a schedule's own table."""
    if isinstance(schedule, ScaledLinear):
        roots = _even(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.steps)
        betas = [root**2 for root in roots]
    else:
        betas = _even(schedule.beta_start, schedule.beta_end, schedule.steps)
    squares = list(accumulate((1 - beta for beta in betas), mul))
    if not schedule.zero_terminal:
        return squares
    alphas = [square**0.5 for square in squares]
    first, last = alphas[0], alphas[-1]
    return [((alpha - last) * first / (first - last)) ** 2 for alpha in alphas]


def _even(start: float, end: float, count: int) -> list[float]:
    step = (end - start) / max(1, count - 1)
    return [start + step * number for number in range(count)]
