"""Conditions as values: joined, repeated, chosen from and checked, way by way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import BadInput
from safelight.types.networks import Condition, Tokens

_Join = Callable[[Sequence[Tensor]], Tensor]


def stack(conditions: Sequence[Condition]) -> Condition:
    """One batch of all, in their order; tokens are padded to the longest and the padding masked.

    Raises BadInput unless all have the same ways open.
    """
    return (
        conditions[0]
        if len(conditions) == 1
        else _joined(conditions, lambda tensors: torch.cat(list(tensors)))
    )


def repeat(condition: Condition, n: int) -> Condition:
    """Every sample ``n`` times in a row."""
    return _joined([condition], lambda tensors: tensors[0].repeat_interleave(n, dim=0))


def choose(mask: Bool[Tensor, " b"], yes: Condition, no: Condition) -> Condition:
    """``yes`` for the samples where ``mask`` is true, ``no`` for the others.

    Raises BadInput unless both have the same ways open.
    """

    def pick(tensors: Sequence[Tensor]) -> Tensor:
        first, second = tensors
        return torch.where(
            mask.to(first.device).reshape(-1, *[1] * (first.ndim - 1)), first, second
        )

    return _joined([yes, no], pick)


def ways(condition: Condition) -> frozenset[str]:
    """The names of the ways in that are open."""
    return frozenset(
        name for name, value in vars(condition).items() if isinstance(value, Tensor) or value
    )


def refuse(condition: Condition, takes: Collection[str], who: str) -> None:
    """Raises BadInput if a way in is open that is not among those that ``who`` ``takes``."""
    if extra := ways(condition) - set(takes):
        known = ", ".join(sorted(takes)) or "no condition"
        raise BadInput(
            f"{who} takes {known}, got {', '.join(sorted(extra))}: leave that out, or use another network."
        )


def _joined(conditions: Sequence[Condition], join: _Join) -> Condition:
    """The condition whose every tensor is ``join`` of the same tensor of each of ``conditions``."""
    first = conditions[0]
    if any(_layout(other) != _layout(first) for other in conditions):
        seen = " and ".join(
            sorted({", ".join(map(str, _layout(each))) or "none" for each in conditions})
        )
        raise BadInput(
            f"conditions of one batch must have the same ways in open, got {seen}: open the same in each."
        )

    def one(same: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in same if tensor is not None]
        return join(present) if present else None

    def each(same: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        return tuple(join(tensors) for tensors in zip(*same, strict=True))

    return Condition(
        tokens=_tokens([c.tokens for c in conditions if c.tokens is not None], join)
        if first.tokens
        else None,
        streams=tuple(
            _tokens(same, join) for same in zip(*[c.streams for c in conditions], strict=True)
        ),
        vector=one([c.vector for c in conditions]),
        scalars={name: join([c.scalars[name] for c in conditions]) for name in first.scalars},
        channels=one([c.channels for c in conditions]),
        references=each([c.references for c in conditions]),
        residuals=each([c.residuals for c in conditions]),
    )


def _layout(condition: Condition) -> tuple[str, ...]:
    """What is open, as finely as joining needs it: ways, counts, names."""
    prepared = [
        len(tokens.projected)
        for tokens in (condition.tokens, *condition.streams)
        if tokens is not None
    ]
    many = (condition.streams, condition.references, condition.residuals)
    return (
        *sorted(ways(condition)),
        *sorted(condition.scalars),
        *(f"×{len(each)}" for each in many),
        f"{prepared}",
    )


def _tokens(same: Sequence[Tokens], join: _Join) -> Tokens:
    length = max(tokens.mask.shape[1] for tokens in same)

    def along(tensors: Sequence[Tensor]) -> Tensor:
        return join([_lengthened(tensor, length) for tensor in tensors])

    return Tokens(
        along([tokens.values for tokens in same]),
        along([tokens.mask for tokens in same]),
        tuple(
            along(tensors) for tensors in zip(*[tokens.projected for tokens in same], strict=True)
        ),
    )


def _lengthened(tensor: Tensor, length: int) -> Tensor:
    """``tensor`` (b, n, …) with zeros, or false, behind it up to (b, length, …)."""
    missing = length - tensor.shape[1]
    return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing)) if missing else tensor
