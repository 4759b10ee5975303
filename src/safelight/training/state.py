"""The state of a run between two updates: weights, their running mean, the optimisers' memory. Exact to the bit."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from safelight import old_names
from safelight.checkpoints.native import load_strictly, renamed
from safelight.errors import BadInput
from safelight.files import writing_folder
from safelight.training.objective import Group
from safelight.weights.writing import write_tensors

T = TypeVar("T")


class Ema:
    """A running mean of parameters (decay grows to ``decay`` from the start, so that early ones are forgotten)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = parameters
        self.mean = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Take in the parameters as they are after ``update`` updates."""
        keep = min(self.decay, (1 + update) / (10 + update))
        torch._foreach_lerp_(
            list(self.mean.values()), [p.detach() for p in self._parameters.values()], 1 - keep
        )

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the parameters are their running means; after it they are exactly as before."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            self._set(self.mean)
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self._parameters.items():
            p.copy_(values[name])


@dataclass(frozen=True, eq=False)
class State:
    """Everything that changes while a run goes on, but for the count of updates."""

    parts: Mapping[str, nn.Module]
    groups: Sequence[Group]
    optimisers: Mapping[str, torch.optim.Optimizer]
    ema: Mapping[str, Ema]

    def save(self, folder: Path, update: int, recent: Mapping[str, list[float]]) -> None:
        """Write a checkpoint folder, aside and then renamed; ``recent`` are the measures not yet written down."""
        tensors: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            tensors |= {f"weights/{name}/{key}": value for key, value in part.state_dict().items()}
        for group in self.groups:
            tensors |= {
                f"ema/{group.name}/{key}": value for key, value in self.ema[group.name].mean.items()
            }
            for key, p in group.parameters.items():
                memory = self.optimisers[group.name].state.get(p, {})
                tensors |= {
                    f"optimiser/{group.name}/{key}/{what}": value for what, value in memory.items()
                }
        with writing_folder(folder) as aside:
            (aside / "state.json").write_text(
                json.dumps({"update": update, "recent": recent}), encoding="utf-8"
            )
            write_tensors(tensors, aside / "state.safetensors")

    def load(self, folder: Path) -> tuple[int, dict[str, list[float]]]:
        """Take on a checkpoint; returns the count of updates behind it, and the measures not yet written down."""
        try:
            tensors = load_file(folder / "state.safetensors")
            written = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            facts = old_names.TABLE.options("run.state", written)
            update, recent = (
                int(facts["update"]),
                {name: list(some) for name, some in facts.get("recent", {}).items()},
            )
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(
                f"the checkpoint {str(folder)!r} cannot be read ({error}); remove it to go on from the one before."
            ) from None
        for name, part in self.parts.items():
            load_strictly(part, _below(tensors, f"weights/{name}/"), str(folder))
        for group in self.groups:
            self._recall(group, tensors)
        return update, recent

    def _recall(self, group: Group, tensors: Mapping[str, Tensor]) -> None:
        mean = self._today(group, _below(tensors, f"ema/{group.name}/"))
        memories: dict[str, dict[str, Tensor]] = {}
        for name, value in _below(tensors, f"optimiser/{group.name}/").items():
            key, _, what = name.rpartition("/")
            memories.setdefault(key, {})[what] = value
        memories = self._today(group, memories)
        optimiser = self.optimisers[group.name]
        for key, p in group.parameters.items():
            self.ema[group.name].mean[key].copy_(mean[key])
            if memory := memories.get(key):
                optimiser.state[p] = {what: _like(p, value) for what, value in memory.items()}

    def _today(self, group: Group, held: Mapping[str, T]) -> dict[str, T]:
        """What is held for each parameter of a group, by today's names.

        A group names parameters as their part does, or with the name of the part before that.
        """
        found = dict(held)
        for name, part in self.parts.items():
            for prefix in (f"{name}.", ""):
                mine = _below(found, prefix)
                others = {key: value for key, value in found.items() if not key.startswith(prefix)}
                wanted = _below(group.parameters, prefix)
                found = others | {
                    prefix + key: value for key, value in renamed(part, mine, wanted).items()
                }
        return found


def _below(tensors: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _like(p: nn.Parameter, value: Tensor) -> Tensor:
    """A memory on the device and in the layout of its parameter, as fused optimisers want it."""
    if value.shape != p.shape:
        return value.to(p.device)
    return torch.empty_like(p, dtype=value.dtype).copy_(value)
