"""Conditions as values: stacked, repeated, chosen from and checked, input by input."""

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
    """One batch of all conditions, in their order.

    Tokens are padded to the longest and the padding is masked. Raises BadInput unless all have the
    same inputs.
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

    Raises BadInput unless both have the same inputs.
    """

    def chosen(tensors: Sequence[Tensor]) -> Tensor:
        first, second = tensors
        return torch.where(
            mask.to(first.device).reshape(-1, *[1] * (first.ndim - 1)), first, second
        )

    return _joined([yes, no], chosen)


def inputs(condition: Condition) -> frozenset[str]:
    """The names of the inputs that a condition has."""
    return frozenset(
        name for name, value in vars(condition).items() if isinstance(value, Tensor) or value
    )


def refuse(condition: Condition, takes: Collection[str], who: str) -> None:
    """Raises BadInput if the condition has inputs that are not among those that ``who`` takes."""
    if others := inputs(condition) - set(takes):
        known = ", ".join(sorted(takes)) or "no condition"
        raise BadInput(
            f"{who} takes {known}, got {', '.join(sorted(others))}: leave that out, or use another "
            "network."
        )


def _joined(conditions: Sequence[Condition], join: _Join) -> Condition:
    """The condition whose every tensor is ``join`` of the same tensor of all ``conditions``."""
    first = conditions[0]
    if any(_layout(condition) != _layout(first) for condition in conditions):
        layouts = {", ".join(map(str, _layout(condition))) or "none" for condition in conditions}
        raise BadInput(
            "conditions of one batch must have the same inputs, got "
            f"{' and '.join(sorted(layouts))}: give all of them the same."
        )

    def joined(same: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in same if tensor is not None]
        return join(present) if present else None

    def joined_each(same: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        return tuple(join(tensors) for tensors in zip(*same, strict=True))

    return Condition(
        tokens=_tokens([c.tokens for c in conditions if c.tokens is not None], join)
        if first.tokens
        else None,
        streams=tuple(
            _tokens(same, join) for same in zip(*[c.streams for c in conditions], strict=True)
        ),
        vector=joined([c.vector for c in conditions]),
        scalars={name: join([c.scalars[name] for c in conditions]) for name in first.scalars},
        channels=joined([c.channels for c in conditions]),
        references=joined_each([c.references for c in conditions]),
        residuals=joined_each([c.residuals for c in conditions]),
    )


def _layout(condition: Condition) -> tuple[str, ...]:
    """What has to be the same for joining: inputs, counts and names."""
    prepared = [
        len(tokens.projected)
        for tokens in (condition.tokens, *condition.streams)
        if tokens is not None
    ]
    many = (condition.streams, condition.references, condition.residuals)
    return (
        *sorted(inputs(condition)),
        *sorted(condition.scalars),
        *(f"×{len(tensors)}" for tensors in many),
        f"{prepared}",
    )


def _tokens(same: Sequence[Tokens], join: _Join) -> Tokens:
    length = max(tokens.mask.shape[1] for tokens in same)

    def padded(tensors: Sequence[Tensor]) -> Tensor:
        return join([_lengthened(tensor, length) for tensor in tensors])

    return Tokens(
        padded([tokens.values for tokens in same]),
        padded([tokens.mask for tokens in same]),
        tuple(
            padded(tensors) for tensors in zip(*[tokens.projected for tokens in same], strict=True)
        ),
    )


def _lengthened(tensor: Tensor, length: int) -> Tensor:
    """``tensor`` (b, n, …) padded at the end with zeros, or false, to (b, length, …)."""
    missing = length - tensor.shape[1]
    return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing)) if missing else tensor
