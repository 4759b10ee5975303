"""Control: branches that look at a picture and add to what a denoiser computes. One file a kind of
branch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from math import prod
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from safelight.errors import BadInput
from safelight.types.networks import Condition, Denoiser, Network
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents

Encode: TypeAlias = Callable[[Images], Latents]
"""An autoencoder's way in: images in [-1, 1] → latents."""


@runtime_checkable
class Branch(Protocol):
    """A network that controls another one by ``residuals``.

    ``takes``: the fields of a condition that the branch itself takes; ``projections``: how many
    tensors it makes of tokens in ``prepare``; ``hint_channels``: the channels of its picture, the
    fourth transparency, where it is to paint; ``modes``: by name, the numbers of the kinds of
    picture that it tells apart, if it does.

    ``attach_to`` gives it the denoiser that it controls: BadInput if that is of another family.
    ``encode_hint`` makes of a picture, once, what does not depend on time, with the model's
    ``encode`` where it looks at latents; ``__call__`` the residuals for some latents, in the order
    of the denoiser that they are for.
    """

    takes: frozenset[str]
    projections: int
    hint_channels: int
    modes: Mapping[str, int]

    def prepare(self, condition: Condition) -> Condition: ...

    def attach_to(self, denoiser: Denoiser) -> None: ...

    def encode_hint(
        self, hint: Images, encode: Encode | None = None, mode: int | None = None
    ) -> tuple[Tensor, ...]: ...

    def __call__(
        self, noisy: Latents, time: Tensor, condition: Condition, hint_features: Sequence[Tensor]
    ) -> tuple[Tensor, ...]: ...


class Controlled:
    """A denoiser around a ``denoiser``, under the control of a ``branch`` that sees ``hint`` (1 or
    b, colours, h, w).

    The hint goes from black, 0, to white, 1. Several are those of as many samples, over and over
    for a larger batch. ``scale`` weighs the residuals, which are added from ``begin`` to ``end`` of
    the way, 0 being pure noise and 1 clean (time 1000 and 0). ``encode``: the model's autoencoder,
    for branches that look at latents; ``mode``: which kind of picture the hint is, by name or
    number, for branches that tell them apart. Control of what is controlled adds up.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        branch: Branch,
        hint: Images,
        scale: float = 1.0,
        begin: float = 0.0,
        end: float = 1.0,
        encode: Encode | None = None,
        mode: str = "",
    ) -> None:
        if not 0 <= begin < end <= 1:
            raise BadInput(
                f"control begins and ends within 0 and 1 of the way, got {begin} to {end}."
            )
        self.denoiser, self.branch, self.scale, self.span = denoiser, branch, scale, (begin, end)
        self.size_multiple = denoiser.size_multiple
        self.scalar_names = frozenset(denoiser.scalar_names)
        branch.attach_to(innermost(denoiser))
        self.hint_features = branch.encode_hint(hint, encode, mode_number(branch.modes, mode))

    def prepare(self, condition: Condition) -> Condition:
        """Prepared for both: in ``tokens.projected`` the branch's part stands before the
        denoiser's."""
        inner = self.denoiser.prepare(condition)
        if condition.tokens is None or condition.tokens.projected:
            return inner
        mine, theirs = self.branch.prepare(self.branch_condition(condition)).tokens, inner.tokens
        if mine is None or theirs is None:
            return inner
        return replace(
            inner, tokens=replace(theirs, projected=(*mine.projected, *theirs.projected))
        )

    def __call__(self, noisy: Latents, time: Tensor, condition: Condition) -> Tensor:
        return self.answer(self.denoiser, noisy, time, condition)

    def variant(self, skip_blocks: Sequence[int], self_only_blocks: Sequence[int]) -> Network:
        """As the denoiser; what controls it stays whole."""
        return partial(self.answer, self.denoiser.variant(skip_blocks, self_only_blocks))

    def answer(
        self, network: Network, noisy: Latents, time: Tensor, condition: Condition
    ) -> Tensor:
        """What ``network``, the denoiser or some of it, says under control."""
        condition = self.prepare(condition)
        branch_condition, tokens = self.branch_condition(condition), condition.tokens
        if tokens is not None and self.branch.projections:
            count = self.branch.projections
            branch_condition = replace(
                branch_condition, tokens=replace(tokens, projected=tokens.projected[:count])
            )
            condition = replace(
                condition, tokens=replace(tokens, projected=tokens.projected[count:])
            )
        way = 1 - time / 1000
        weight = self.scale * ((way >= self.span[0]) & (way <= self.span[1])).to(noisy.dtype)
        if bool(weight.any()):
            hint_features = [repeat_for_batch(one, len(noisy)) for one in self.hint_features]
            found = weight_residuals(
                self.branch(noisy, time, branch_condition, hint_features), weight
            )
            condition = replace(condition, residuals=add_residuals(found, condition.residuals))
        return network(noisy, time, condition)

    def branch_condition(self, condition: Condition) -> Condition:
        """What of a condition the branch takes."""
        return Condition(
            **{name: value for name, value in vars(condition).items() if name in self.branch.takes}
        )


class ChannelConditioned:
    """A denoiser that sees the latents of a ``picture`` (1 or b, c, h, w) in the channels beside
    its own, where it is given no others: FLUX.1 Canny and Depth, and the LoRAs that make them of
    FLUX.1 dev."""

    def __init__(self, denoiser: Denoiser, picture: Latents) -> None:
        self.denoiser, self.picture = denoiser, picture
        self.size_multiple = denoiser.size_multiple
        self.scalar_names = frozenset(denoiser.scalar_names)

    def prepare(self, condition: Condition) -> Condition:
        """As the denoiser."""
        return self.denoiser.prepare(condition)

    def __call__(self, noisy: Latents, time: Tensor, condition: Condition) -> Tensor:
        return self.answer(self.denoiser, noisy, time, condition)

    def variant(self, skip_blocks: Sequence[int], self_only_blocks: Sequence[int]) -> Network:
        """As the denoiser, which sees the picture all the same."""
        return partial(self.answer, self.denoiser.variant(skip_blocks, self_only_blocks))

    def answer(
        self, network: Network, noisy: Latents, time: Tensor, condition: Condition
    ) -> Tensor:
        """What ``network``, the denoiser or some of it, says beside the picture."""
        if condition.channels is None:
            if self.picture.shape[2:] != noisy.shape[2:]:
                sizes = ["×".join(map(str, one.shape[2:])) for one in (self.picture, noisy)]
                raise BadInput(
                    f"the picture shown is one for latents of {sizes[0]}, not {sizes[1]}: "
                    "give that size."
                )
            channels = repeat_for_batch(self.picture, len(noisy)).expand(
                len(noisy), *[-1] * (noisy.ndim - 1)
            )
            condition = replace(condition, channels=channels)
        return network(noisy, time, condition)


def innermost(denoiser: Denoiser) -> Denoiser:
    """The denoiser inside all control that there is around it."""
    while isinstance(denoiser, Controlled | ChannelConditioned):
        denoiser = denoiser.denoiser
    return denoiser


def mode_number(modes: Mapping[str, int], mode: str) -> int | None:
    """The number of a ``mode`` given by name or number, None if none is given; BadInput if there is
    no such."""
    if not mode:
        return None
    number = int(mode) if mode.isdecimal() else modes.get(mode)
    if number not in modes.values():
        wanted = (
            f"one of {', '.join(modes)}"
            if modes
            else "none: this control knows one kind of picture"
        )
        raise BadInput(f"the kind of a control picture: wanted {wanted}; got {mode!r}.")
    return number


def weight_residuals(residuals: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """Each of ``residuals`` times its sample's ``weight`` (b,); a tensor that serves several blocks
    is made once."""
    made: dict[int, Tensor] = {}
    for one in residuals:
        if id(one) not in made:
            made[id(one)] = one * weight.to(one.dtype).reshape(-1, *[1] * (one.ndim - 1))
    return [made[id(one)] for one in residuals]


def add_residuals(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Two lists of residuals as one; what only the longer one has is taken from it."""
    pairs = zip_longest(first, second)
    return tuple(b if a is None else a if b is None else a + b for a, b in pairs)


def encode_picture(images: Images, encode: Encode | None) -> Latents:
    """The latents of a control picture (b, 3, h, w); BadInput without an autoencoder."""
    if encode is None:
        raise BadInput(
            "this control looks at latents: add the model's autoencoder, which encodes its picture."
        )
    return encode(images)


def require_patch_count(hint_features: Tensor, grid: Shape) -> Tensor:
    """What was seen, (b, n, width), of a picture of as many patches as the ``grid`` has; else
    BadInput."""
    if hint_features.shape[1] != prod(grid):
        size = "×".join(map(str, grid))
        raise BadInput(
            f"this control has seen a picture of {hint_features.shape[1]} patches, not of {size}: "
            "give one of that size."
        )
    return hint_features


def repeat_for_batch(hint_features: Tensor, count: int) -> Tensor:
    """The features of a hint, repeated for ``count`` samples."""
    if count % len(hint_features):
        raise BadInput(
            f"{len(hint_features)} control pictures cannot be shared among {count} samples: "
            "give one, or all."
        )
    return (
        hint_features
        if len(hint_features) == 1
        else torch.cat([hint_features] * (count // len(hint_features)))
    )
