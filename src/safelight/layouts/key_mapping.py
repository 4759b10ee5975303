"""A part's names and shapes in a foreign layout: one table, read forwards to load and backwards to
save."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from einops import rearrange

from safelight.errors import BadInput
from safelight.types.shapes import Shapes
from safelight.weights.memory import at_once

if TYPE_CHECKING:
    from torch import Tensor


class TensorTransform(Protocol):
    """How one tensor differs between the layouts; ``to_theirs`` undoes ``to_ours`` to the bit."""

    def to_ours(self, theirs: "Tensor") -> "Tensor": ...

    def to_theirs(self, ours: "Tensor") -> "Tensor": ...


@dataclass(frozen=True)
class Same:
    """No difference."""

    def to_ours(self, theirs: "Tensor") -> "Tensor":
        return theirs

    def to_theirs(self, ours: "Tensor") -> "Tensor":
        return ours


SAME = Same()


@dataclass(frozen=True)
class Pointwise:
    """Theirs is a 1×1 convolution on ``axes`` axes where ours is a linear layer; below 0 the other
    way round."""

    axes: int = 2

    def to_ours(self, theirs: "Tensor") -> "Tensor":
        return _trailing(theirs, -self.axes)

    def to_theirs(self, ours: "Tensor") -> "Tensor":
        return _trailing(ours, self.axes)


@dataclass(frozen=True)
class Swapped:
    """The two halves along the first axis stand the other way round (scale and shift)."""

    def to_ours(self, theirs: "Tensor") -> "Tensor":
        import torch

        return torch.cat(theirs.chunk(2)[::-1])

    def to_theirs(self, ours: "Tensor") -> "Tensor":
        return self.to_ours(ours)


@dataclass(frozen=True)
class Patches:
    """Theirs is a convolution of ``patch`` by ``patch`` in steps as long, ours a linear layer on
    whole patches."""

    patch: int

    def to_ours(self, theirs: "Tensor") -> "Tensor":
        return rearrange(theirs, "d c p q -> d (p q c)")

    def to_theirs(self, ours: "Tensor") -> "Tensor":
        return rearrange(ours, "d (p q c) -> d c p q", p=self.patch, q=self.patch)


@dataclass(frozen=True)
class Transposed:
    """Theirs multiplies from the right: x @ W."""

    def to_ours(self, theirs: "Tensor") -> "Tensor":
        return theirs.T

    def to_theirs(self, ours: "Tensor") -> "Tensor":
        return ours.T


@dataclass(frozen=True)
class HeadsFirst:
    """Rows of theirs go head by head, each its ``parts`` (q, k, v); ours go part by part, each all
    heads."""

    heads: int
    parts: int = 3

    def to_ours(self, theirs: "Tensor") -> "Tensor":
        return rearrange(theirs, "(h p d) ... -> (p h d) ...", h=self.heads, p=self.parts)

    def to_theirs(self, ours: "Tensor") -> "Tensor":
        return rearrange(ours, "(p h d) ... -> (h p d) ...", h=self.heads, p=self.parts)


@dataclass(frozen=True)
class Chain:
    """One change after the other."""

    changes: tuple[TensorTransform, ...]

    def to_ours(self, theirs: "Tensor") -> "Tensor":
        for one in self.changes:
            theirs = one.to_ours(theirs)
        return theirs

    def to_theirs(self, ours: "Tensor") -> "Tensor":
        for one in self.changes[::-1]:
            ours = one.to_theirs(ours)
        return ours


@dataclass(frozen=True)
class KeyRule:
    """One tensor of ours, made of one or several of theirs, joined along the first axis in this
    order.

    ``rows``: how many rows each of several has, in our shape; none: all alike. ``change`` is made
    to each of theirs before they are joined. ``copies``: theirs are copies of one, and this is
    what to do where they are not.
    """

    ours: str
    theirs: tuple[str, ...]
    change: TensorTransform = SAME
    rows: tuple[int, ...] = ()
    copies: str = ""

    def to_ours(self, tensors: Sequence["Tensor"]) -> "Tensor":
        """Ours, made of theirs."""
        import torch

        changed = [self.change.to_ours(one) for one in (tensors[:1] if self.copies else tensors)]
        return changed[0] if len(changed) == 1 else torch.cat(changed)

    def unlike(self, tensors: Sequence["Tensor"]) -> list[str]:
        """Which of theirs should be copies of the first and are not, in sentences."""
        named = (
            zip(self.theirs, tensors, strict=True) if self.copies and not tensors[0].is_meta else ()
        )
        unlike = [name for name, one in named if not one.equal(tensors[0])]
        return [f"{name} is not the same as {self.theirs[0]} ({self.copies})" for name in unlike]

    def to_theirs(self, ours: "Tensor") -> list["Tensor"]:
        """Theirs, taken from ours."""
        if len(self.theirs) == 1:  # which may be a number, that has no axis to be cut along
            return [self.change.to_theirs(ours)]
        if self.copies:
            return [self.change.to_theirs(ours)] * len(self.theirs)
        import torch

        count = len(self.theirs)
        chunks = torch.split(ours, list(self.rows)) if self.rows else ours.chunk(count)
        return [self.change.to_theirs(one) for one in chunks]


@dataclass(frozen=True)
class KeyMapping:
    """All rules of a part, and a pattern for names of theirs that say nothing a part needs
    (schedule buffers)."""

    rules: tuple[KeyRule, ...]
    ignored: str = r"(?!)"

    def to_ours(
        self, file: Mapping[str, "Tensor"], wanted: Mapping[str, "Tensor"], where: str
    ) -> Iterator[tuple[str, "Tensor"]]:
        """Our names and tensors of a whole file, one at a time.

        ``wanted``: our state dict, on any device, for its names and shapes; what no rule makes
        (scales, tokenizers) is not yielded. Raises BadInput, in the name of ``where``, that lists
        missing, unexpected and misshapen names.
        """
        known = {name for rule in self.rules for name in rule.theirs}
        problems = [
            f"{name} is missing" for rule in self.rules for name in rule.theirs if name not in file
        ]
        problems += [
            f"{name} is not expected"
            for name in file
            if name not in known and not self.ignores(name)
        ]
        require_none(problems, where)

        def convert(rule: KeyRule) -> tuple[str, "Tensor"]:
            theirs = [file[name] for name in rule.theirs]
            require_none(rule.unlike(theirs), where)
            try:
                tensor = rule.to_ours(theirs)
            except (RuntimeError, ValueError, IndexError):  # shapes that cannot even be joined
                shapes = ", ".join(str(tuple(one.shape)) for one in theirs)
                require_none(
                    [f"{' and '.join(rule.theirs)} have shapes {shapes} that do not go together"],
                    where,
                )
            if tensor.shape != wanted[rule.ours].shape:
                shapes = f"{tuple(tensor.shape)}, wanted {tuple(wanted[rule.ours].shape)}"
                require_none([f"{' and '.join(rule.theirs)} has shape {shapes}"], where)
            return rule.ours, tensor

        yield from at_once(convert, self.rules)

    def to_theirs(self, ours: Mapping[str, "Tensor"]) -> Iterator[tuple[str, "Tensor"]]:
        """Their names and tensors of our state dict, one at a time."""
        for rule in self.rules:
            yield from zip(rule.theirs, rule.to_theirs(ours[rule.ours]), strict=True)

    def undotted(self) -> "KeyMapping":
        """The same for names without their dots, as latent diffusion keeps its averaged weights."""
        bare = (
            replace(rule, theirs=tuple(name.replace(".", "") for name in rule.theirs))
            for rule in self.rules
        )
        return KeyMapping(tuple(bare), self.ignored)

    def ignores(self, name: str) -> bool:
        """Whether a name of theirs may stand in a file unread."""
        return re.fullmatch(self.ignored, name) is not None

    def place(self, theirs: str) -> tuple[KeyRule, int] | None:
        """The rule that a name of theirs stands in, and where in it: for adapters, which change
        parts of a tensor."""
        for rule in self.rules:
            if theirs in rule.theirs:
                return rule, rule.theirs.index(theirs)
        return None


@dataclass(frozen=True)
class Layout:
    """One foreign layout of one kind of part, as a file in ``checkpoints/all_layouts`` gives it.

    ``recognises`` looks at names (bare of any prefix) and shapes alone. ``config`` infers ours
    from them; ``declared`` is what else is known, in the fields of the layout: a folder's
    config.json, or options of the user. ``describe`` is a folder's config.json for a
    configuration, where the layout has one.
    """

    name: str  # of the layout: ldm, diffusers, …
    part: str  # autoencoder, denoiser, tower, control, …
    recognises: Callable[[Shapes], bool]
    config: Callable[[Shapes, Mapping[str, Any]], Any]
    table: Callable[[Any], KeyMapping]
    describe: Callable[[Any], Mapping[str, Any]] | None = None
    # a configuration of ours at its public size, by which strangers are told what is nearest
    example: Any = None


def layer(
    ours: str,
    *theirs: str,
    bias: bool = True,
    change: TensorTransform = SAME,
    rows: tuple[int, ...] = (),
    copies: str = "",
) -> list[KeyRule]:
    """The rules of a layer's weight and, if it has one, bias; a bias has no axis but its own."""
    rules = [
        KeyRule(f"{ours}.weight", tuple(f"{one}.weight" for one in theirs), change, rows, copies)
    ]
    if bias:
        plain = SAME if isinstance(change, Pointwise | Patches | Transposed) else change
        rules.append(
            KeyRule(f"{ours}.bias", tuple(f"{one}.bias" for one in theirs), plain, rows, copies)
        )
    return rules


def require_none(problems: Sequence[str], where: str) -> None:
    """BadInput that lists the first of ``problems``, if there are any."""
    if problems:
        more = f" … and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise BadInput(f"{where} does not fit its configuration: {'; '.join(problems[:4])}{more}.")


def _trailing(tensor: "Tensor", axes: int) -> "Tensor":
    """With so many axes of length 1 more at the end, or fewer."""
    if axes >= 0:
        return tensor[(..., *[None] * axes)]
    if any(length != 1 for length in tensor.shape[axes:]):
        raise ValueError(f"wanted a 1×1 convolution, got {tuple(tensor.shape)}")
    return tensor.flatten(axes - 1)
