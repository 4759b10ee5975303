"""Control: branches that look at a picture and add to what a denoiser computes. One file a kind of branch."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from safelight.errors import BadInput
from safelight.types import Condition, Denoiser, Hearing, Images, Latents, Network, Skippable


@runtime_checkable
class Branch(Protocol):
    """A network that controls another one by ``residuals``.

    ``takes``: the ways in, of those of a condition, that it hears itself; ``projections``: how many tensors it makes of
    tokens in ``prepare``. ``see`` makes of a picture, once, what does not depend on time; ``__call__`` the residuals
    for some latents, in the order of the denoiser that they are for.
    """

    takes: frozenset[str]
    projections: int

    def prepare(self, condition: Condition) -> Condition: ...

    def see(self, hint: Images) -> tuple[Tensor, ...]: ...

    def __call__(
        self, noisy: Latents, time: Tensor, condition: Condition, seen: Sequence[Tensor]
    ) -> tuple[Tensor, ...]: ...


class Controlled:
    """A denoiser around a ``denoiser``, under the control of a ``branch`` that sees ``hint`` (1 or b, colours, h, w).

    Several hints are those of as many samples, over and over for a larger batch. ``scale`` weighs the residuals, which
    are added from ``begin`` to ``end`` of the way, 0 being pure noise and 1 clean (time 1000 and 0). Control of what is
    controlled already adds up.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        branch: Branch,
        hint: Images,
        scale: float = 1.0,
        begin: float = 0.0,
        end: float = 1.0,
    ) -> None:
        if not 0 <= begin < end <= 1:
            raise BadInput(f"control begins and ends within 0 and 1 of the way, got {begin} to {end}.")
        self.denoiser, self.branch, self.scale, self.span = denoiser, branch, scale, (begin, end)
        self.grain = denoiser.grain
        self.hears = frozenset(denoiser.hears if isinstance(denoiser, Hearing) else ())
        self.seen = branch.see(hint)

    def prepare(self, condition: Condition) -> Condition:
        """Prepared for both: in ``tokens.projected`` the branch's part stands before the denoiser's."""
        inner = self.denoiser.prepare(condition)
        if condition.tokens is None or condition.tokens.projected:
            return inner
        mine, theirs = self.branch.prepare(self.heard(condition)).tokens, inner.tokens
        if mine is None or theirs is None:
            return inner
        return replace(inner, tokens=replace(theirs, projected=(*mine.projected, *theirs.projected)))

    def __call__(self, noisy: Latents, time: Tensor, condition: Condition) -> Tensor:
        return self.answer(self.denoiser, noisy, time, condition)

    def without(self, skip: Sequence[int], alone: Sequence[int]) -> Network:
        """As the denoiser; what controls it stays whole."""
        if not isinstance(self.denoiser, Skippable):
            raise BadInput(f"{type(self.denoiser).__name__} cannot leave out blocks: choose another guidance.")
        return partial(self.answer, self.denoiser.without(skip, alone))

    def answer(self, network: Network, noisy: Latents, time: Tensor, condition: Condition) -> Tensor:
        """What ``network``, the denoiser or some of it, says under control."""
        condition = self.prepare(condition)
        told, tokens = self.heard(condition), condition.tokens
        if tokens is not None and self.branch.projections:
            count = self.branch.projections
            told = replace(told, tokens=replace(tokens, projected=tokens.projected[:count]))
            condition = replace(condition, tokens=replace(tokens, projected=tokens.projected[count:]))
        way = 1 - time / 1000
        weight = self.scale * ((way >= self.span[0]) & (way <= self.span[1])).to(noisy.dtype)
        if bool(weight.any()):
            seen = [fitted(one, len(noisy)) for one in self.seen]
            weight = weight.reshape(-1, *[1] * (noisy.ndim - 1))
            found = [one * weight.to(one.dtype) for one in self.branch(noisy, time, told, seen)]
            condition = replace(condition, residuals=added(found, condition.residuals))
        return network(noisy, time, condition)

    def heard(self, condition: Condition) -> Condition:
        """What of a condition the branch takes."""
        return Condition(**{name: value for name, value in vars(condition).items() if name in self.branch.takes})


def added(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Two lists of residuals as one; what only the longer one has is taken from it."""
    pairs = zip_longest(first, second)
    return tuple(b if a is None else a if b is None else a + b for a, b in pairs)


def fitted(seen: Tensor, count: int) -> Tensor:
    """What was seen, for ``count`` samples."""
    if count % len(seen):
        raise BadInput(
            f"{len(seen)} control pictures are not shared out alike among {count} samples: give one, or all."
        )
    return seen if len(seen) == 1 else torch.cat([seen] * (count // len(seen)))
