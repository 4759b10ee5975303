"""The stages of a step: network passes within it, as in Runge-Kutta methods."""

from __future__ import annotations

from torch import Tensor

from safelight.diffusion.exponential import Form, Nodes, advance, value_of
from safelight.diffusion.trajectory import first_order_step
from safelight.types.diffusion import Denoise, Estimate, NoiseLevel, Schedule
from safelight.types.tensors import Latents


class Stages:
    """A step of order 1 to 3 from ``level`` to ``after`` by DPM-Solver or DPM-Solver++.

    DPM-Solver (arXiv 2206.00927, algorithms 1 and 2) has the ``form`` noise, DPM-Solver++ (arXiv
    2211.01095) the form clean. Passes are kept, so that steps of two orders can be compared without
    further passes.
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
        self.denoise, self.schedule, self.form = denoise, schedule, form
        self.noisy, self.level, self.after, self.estimate = noisy, level, after, estimate
        self.begin, self.h = level.half_logsnr, after.half_logsnr - level.half_logsnr
        self.first = value_of(form, estimate, noisy, level)
        self._values: dict[float, Tensor] = {}

    def step(self, order: int, place: float = 0.5) -> Latents:
        """The latents at ``after`` by a step of ``order``; order 2 has its second stage at
        ``place``.

        From pure noise and to clean it is the step of first order.
        """
        if order == 1 or bool(self.h.isinf().any()):
            step = first_order_step(self.estimate, self.noisy, self.level, self.after)
            return step.to(self.noisy.dtype)
        begin = (0.0, self.first)
        if order == 2:
            nodes: Nodes = [begin, (place, self._value(place, [begin]))]
            return advance(self.noisy, self.level, self.after, nodes, self.form, "midpoint")
        third = self._value(1 / 3, [begin])
        # A third is half-way to two thirds.
        two_thirds = self._value(2 / 3, [begin, (0.5, third)])
        nodes = [begin, (2 / 3, two_thirds)]
        return advance(self.noisy, self.level, self.after, nodes, self.form)

    def _value(self, place: float, nodes: Nodes) -> Tensor:
        """The value at a share of the step, by a network pass where the polynomial leads."""
        if place not in self._values:
            middle = self.schedule(self.schedule.when(self.begin + place * self.h))
            between = advance(self.noisy, self.level, middle, nodes, self.form)
            estimate = self.denoise(between, middle)
            self._values[place] = value_of(self.form, estimate, between, middle)
        return self._values[place]
