"""The passes inside one step of a single-step solver, each made once."""

from __future__ import annotations

from torch import Tensor

from safelight.diffusion.exponential import Form, Nodes, advance, value
from safelight.diffusion.trajectory import straight
from safelight.types.diffusion import Denoise, Estimate, NoiseLevel, Schedule
from safelight.types.tensors import Latents


class Passes:
    """A step from ``level`` to ``after`` by DPM-Solver (arXiv 2206.00927, algorithms 1, 2) or, where the ``form`` is
    ``clean``, DPM-Solver++ (arXiv 2211.01095), of any order from 1 to 3.

    What it passes on the way is kept, so that two orders may be compared at the price of one.
    """

    def __init__(
        self,
        denoise: Denoise,
        schedule: Schedule,
        noisy: Latents,
        level: NoiseLevel,
        estimate: Estimate,
        after: NoiseLevel,
        form: Form,
    ) -> None:
        self.denoise, self.schedule, self.noisy, self.level, self.estimate = (
            denoise,
            schedule,
            noisy,
            level,
            estimate,
        )
        self.after, self.form = after, form
        self.begin, self.h = level.half_logsnr, after.half_logsnr - level.half_logsnr
        self.first = value(form, estimate, noisy, level)
        self.kept: dict[float, Tensor] = {}

    def reach(self, order: int, place: float = 0.5) -> Latents:
        """The latents at ``after`` by a step of ``order``; one of order 2 passes at ``place``.

        From pure noise and to clean it is the straight step.
        """
        if order == 1 or bool(self.h.isinf().any()):
            return straight(self.estimate, self.noisy, self.level, self.after).to(self.noisy.dtype)
        begin = (0.0, self.first)
        if order == 2:
            nodes: Nodes = [begin, (place, self._at(place, [begin]))]
            return advance(self.noisy, self.level, self.after, nodes, self.form, "midpoint")
        third = self._at(1 / 3, [begin])
        nodes = [
            begin,
            (2 / 3, self._at(2 / 3, [begin, (0.5, third)])),
        ]  # half-way to the second third
        return advance(self.noisy, self.level, self.after, nodes, self.form)

    def _at(self, place: float, nodes: Nodes) -> Tensor:
        """The value at a share of the step, found by a pass where the polynomial through ``nodes`` leads."""
        if place not in self.kept:
            middle = self.schedule(self.schedule.when(self.begin + place * self.h))
            between = advance(self.noisy, self.level, middle, nodes, self.form)
            self.kept[place] = value(self.form, self.denoise(between, middle), between, middle)
        return self.kept[place]
