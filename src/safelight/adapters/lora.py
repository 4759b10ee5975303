"""Small changes to large weights: low-rank adapters and their kin, merged into a model and taken
out again.

LoRA (arXiv 2106.09685), DoRA (arXiv 2402.09353), LoHa (arXiv 2108.06098) and LoKr (arXiv
2212.10650).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import BadInput


class Place(Protocol):
    """One tensor of ours and those of a foreign layout that it is made of:
    ``layouts.key_mapping.KeyRule``."""

    @property
    def ours(self) -> str: ...

    def to_ours(self, tensors: Sequence[Tensor]) -> Tensor: ...

    def to_theirs(self, ours: Tensor) -> list[Tensor]: ...


@runtime_checkable
class Widening(Protocol):
    """A part whose first layer can be given more columns, for adapters that show it more than it
    was made to see.

    ``first``: the name of that layer's weight; ``sees`` whether it can have so many. ``widen``
    gives it so many, the further ones 0, or takes them away again.
    """

    first: str

    def sees(self, columns: int) -> bool: ...

    def widen(self, columns: int) -> None: ...


class Spot(NamedTuple):
    """One of the foreign tensors that make up a ``place``."""

    place: Place
    number: int


@dataclass(frozen=True, eq=False)
class Layer:
    """What an adapter adds to one layer: its ``tensors`` as they stood in the file, by names common
    to all files.

    ``up`` and ``down`` (and ``mid``) of LoRA, ``hada_…`` of LoHa, ``lokr_…`` of LoKr, ``diff`` a
    whole difference and ``value`` a tensor to take in place; ``alpha``, ``magnitude`` (DoRA), and
    ``bias``, a difference of the bias.
    """

    part: str  # denoiser, tower.0, …
    module: str  # in the layout that the adapter was made for
    tensors: Mapping[str, Tensor]
    weight: Spot
    bias: Spot | None = None

    @property
    def spots(self) -> Iterator[tuple[Spot, Mapping[str, Tensor]]]:
        """Each tensor that is changed, and by what."""
        rest = {name: one for name, one in self.tensors.items() if name != "bias"}
        if rest:
            yield self.weight, rest
        if "bias" in self.tensors and self.bias is not None:
            yield self.bias, {"diff": self.tensors["bias"]}


@dataclass(frozen=True, eq=False)
class Adapter:
    """Changes to a model. ``left``: names for towers that the model does not have. ``words``:
    learned embeddings that lay in the same file."""

    name: str
    layers: tuple[Layer, ...]
    left: tuple[str, ...] = ()
    words: Mapping[str, Tensor] = field(default_factory=dict)

    def widens(self, parts: Mapping[str, nn.Module]) -> bool:
        """Whether it shows a part more than it sees now: a control LoRA."""
        states = {part: module.state_dict() for part, module in parts.items()}
        return any(
            is_widenable(parts[layer.part], spot.place.ours, columns(tensors))
            and columns(tensors) > states[layer.part][spot.place.ours].shape[1]
            for layer in self.layers
            for spot, tensors in layer.spots
        )

    def check(self, parts: Mapping[str, nn.Module]) -> None:
        """BadInput unless every change has the shape of what it changes."""
        states = {part: module.state_dict() for part, module in parts.items()}
        for layer in self.layers:
            for spot, tensors in layer.spots:
                ours = states[layer.part][spot.place.ours]
                shape = tuple(
                    spot.place.to_theirs(torch.empty_like(ours, device="meta"))[spot.number].shape
                )
                if is_widenable(parts[layer.part], spot.place.ours, columns(tensors)):
                    shape = (shape[0], columns(tensors))
                try:
                    change(
                        torch.empty(shape, device="meta"),
                        {name: one.to("meta") for name, one in tensors.items()},
                    )
                except KeyError:
                    names = " and ".join(layer.tensors)
                    raise BadInput(
                        f"{self.name}: {layer.module} has only {names}; the file is not whole."
                    ) from None
                except (RuntimeError, ValueError, IndexError):
                    made = " and ".join(
                        f"{name} {tuple(one.shape)}" for name, one in tensors.items() if one.dim()
                    )
                    raise BadInput(
                        f"{self.name}: {layer.module} has {made}, which does not go with a weight "
                        f"of shape {shape}; it is for a model of another size or family."
                    ) from None


class Merged:
    """The adapters in a model's ``parts`` (denoiser, tower.0, …), merged into their weights.

    What they change is kept aside as it was, so that other scales, other adapters and none are
    always made from the weights themselves: taking all out gives them back to the bit, which
    subtracting would not (bf16 rounds).
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self.parts = dict(parts)
        self.kept: dict[tuple[str, str], Tensor] = {}

    @torch.no_grad()
    def use(self, chosen: Mapping[Adapter, float]) -> None:
        """From now on exactly these, each by its scale. BadInput, with nothing changed, if one does
        not fit."""
        for adapter in chosen:
            adapter.check(self.parts)
        wanted: dict[tuple[str, str], list[tuple[Spot, Mapping[str, Tensor], float]]] = {}
        for adapter, scale in chosen.items():
            for layer in adapter.layers if scale else ():
                for spot, tensors in layer.spots:
                    wanted.setdefault((layer.part, spot.place.ours), []).append(
                        (spot, tensors, scale)
                    )
        try:
            for part, name in [*self.kept]:
                if (part, name) not in wanted:
                    self._restore(part, name)
            for (part, name), changes in wanted.items():
                kept = self.kept.setdefault((part, name), self._weight(part, name).clone())
                self._widen(
                    part,
                    name,
                    max([kept.shape[-1], *(columns(tensors) for _, tensors, _ in changes)]),
                )
                weight = self._weight(part, name)
                base = (
                    kept
                    if kept.shape == weight.shape
                    else F.pad(kept, (0, weight.shape[1] - kept.shape[1]))
                )
                weight.copy_(changed(base, changes))
        except BaseException:
            self.clear()
            raise

    @torch.no_grad()
    def clear(self) -> None:
        """The weights as they were."""
        for part, name in [*self.kept]:
            self._restore(part, name)

    def _restore(self, part: str, name: str) -> None:
        self._widen(part, name, self.kept[part, name].shape[-1])
        self._weight(part, name).copy_(self.kept[part, name])
        del self.kept[part, name]

    def _widen(self, part: str, name: str, wanted: int) -> None:
        one = self.parts[part]
        if isinstance(one, Widening) and one.first == name:
            one.widen(wanted)

    def _weight(self, part: str, name: str) -> Tensor:
        path, _, last = name.rpartition(".")
        module = self.parts[part].get_submodule(path)
        return dict(module.named_parameters(recurse=False))[last]


def is_widenable(part: nn.Module, name: str, wanted: int) -> bool:
    """Whether the weight of that name can be given so many columns."""
    return isinstance(part, Widening) and part.first == name and part.sees(wanted)


def columns(tensors: Mapping[str, Tensor]) -> int:
    """How many columns the change of a linear layer has, 0 if that is not seen at once."""
    return next(
        (
            tensors[name].shape[1]
            for name in ("down", "diff")
            if name in tensors and tensors[name].dim() == 2
        ),
        0,
    )


def changed(weight: Tensor, changes: Sequence[tuple[Spot, Mapping[str, Tensor], float]]) -> Tensor:
    """A tensor of ours with changes to the foreign tensors that it is made of, each with its scale;
    in float32."""
    total = weight.float()
    for spot, tensors, scale in changes:
        pieces = [piece.float() for piece in spot.place.to_theirs(weight)]
        differences = [torch.zeros_like(piece) for piece in pieces]
        here = {name: one.to(weight.device) for name, one in tensors.items()}
        piece = pieces[spot.number]
        missing = (
            piece.shape[1] - columns(here) if columns(here) else 0
        )  # of one that is for a narrower layer
        narrow = change(piece[:, : columns(here)] if missing else piece, here)
        differences[spot.number] = scale * (F.pad(narrow, (0, missing)) if missing else narrow)
        total = total + spot.place.to_ours(differences)
    return total


def change(weight: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """What is added to ``weight`` at a scale of 1, in its shape.

    DoRA's is the difference to the weight whose rows, or columns, have the lengths that it learned;
    so at other scales it lies on the straight line there.
    """
    if "value" in tensors:
        return tensors["value"].float().view(weight.shape) - weight
    difference = product(
        {name: one.float() for name, one in tensors.items() if name not in ("alpha", "magnitude")}
    )
    if difference.shape[0] != weight.shape[0]:
        raise ValueError(f"wanted {weight.shape[0]} rows, got {difference.shape[0]}")
    difference = (scaled(tensors) * difference).reshape(weight.shape)
    if "magnitude" not in tensors:
        return difference
    magnitude, new = tensors["magnitude"].float(), weight + difference
    if magnitude.dim() < 2:
        magnitude = magnitude.view(-1, *[1] * (weight.dim() - 1))
    along = [axis for axis in range(weight.dim()) if magnitude.shape[axis] == 1]
    length: Tensor = torch.linalg.vector_norm(new, dim=along, keepdim=True)
    length = length.clamp_min(torch.finfo(torch.float32).tiny)
    return magnitude.expand_as(length) * new / length - weight


def scaled(tensors: Mapping[str, Tensor]) -> float | Tensor:
    """alpha over rank; 1 where either is missing."""
    downs = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    rank = next((tensors[name].shape[0] for name in downs if name in tensors), 0)
    return tensors["alpha"].float() / rank if rank and "alpha" in tensors else 1.0


def product(tensors: Mapping[str, Tensor]) -> Tensor:
    """The difference that factors stand for, (out, in, …)."""
    if "diff" in tensors:
        return tensors["diff"]
    if "up" in tensors:
        return _joined(tensors["up"], tensors["down"], tensors.get("mid"))
    if "hada_w1_a" in tensors:
        one, two = (
            _tucker(tensors[f"hada_t{i}"], tensors[f"hada_w{i}_a"], tensors[f"hada_w{i}_b"])
            if f"hada_t{i}" in tensors
            else tensors[f"hada_w{i}_a"] @ tensors[f"hada_w{i}_b"]
            for i in (1, 2)
        )
        return one * two
    small, large = _factor(tensors, 1), _factor(tensors, 2)
    whole: Tensor = torch.kron(small.view(*small.shape, *[1] * (large.dim() - small.dim())), large)
    return whole


def _joined(up: Tensor, down: Tensor, mid: Tensor | None) -> Tensor:
    """LoRA's matrices, of linear layers or convolutions; ``mid`` is a convolution between two
    pointwise ones."""
    if mid is None:
        return up.flatten(1) @ down.flatten(1)
    return torch.einsum("mnkl,om,ni->oikl", mid, up.flatten(1), down.flatten(1))


def _tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A convolution's core with factors a (rank, out) and b (rank, in)."""
    return torch.einsum("ijkl,ip,jr->prkl", core, a, b)


def _factor(tensors: Mapping[str, Tensor], number: int) -> Tensor:
    """One factor of a Kronecker product, itself whole or of low rank."""
    name = f"lokr_w{number}"
    if name in tensors:
        return tensors[name]
    if f"lokr_t{number}" in tensors:
        return _tucker(tensors[f"lokr_t{number}"], tensors[f"{name}_a"], tensors[f"{name}_b"])
    return tensors[f"{name}_a"] @ tensors[f"{name}_b"]
