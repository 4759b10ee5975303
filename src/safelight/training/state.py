"""The state of a run: weights, their running mean and the optimisers' state, bit for bit."""

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
from safelight.checkpoints.state_dicts import current_names, load_strictly
from safelight.errors import BadInput
from safelight.files import writing_folder
from safelight.training.objective import Group
from safelight.weights.writing import write_tensors

T = TypeVar("T")


class Ema:
    """An exponential moving average of parameters, whose decay grows up to ``decay``."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = parameters
        self.mean = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Average in the parameters as they are after ``update`` updates."""
        keep = min(self.decay, (1 + update) / (10 + update))
        torch._foreach_lerp_(
            list(self.mean.values()), [p.detach() for p in self._parameters.values()], 1 - keep
        )

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the parameters are their averages; after it they are as before."""
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
    """Everything that changes during a run, except the count of updates."""

    parts: Mapping[str, nn.Module]
    groups: Sequence[Group]
    optimisers: Mapping[str, torch.optim.Optimizer]
    ema: Mapping[str, Ema]

    def save(self, folder: Path, update: int, recent: Mapping[str, list[float]]) -> None:
        """Write a checkpoint folder atomically; ``recent`` are the metrics not logged yet."""
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
        """Load a checkpoint; returns its count of updates and the metrics not logged yet."""
        try:
            tensors = load_file(folder / "state.safetensors")
            written = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            facts = old_names.TABLE.options("run.state", written)
            update = int(facts["update"])
            recent = {name: list(values) for name, values in facts.get("recent", {}).items()}
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(
                f"the checkpoint {str(folder)!r} cannot be read ({error}); "
                "remove it to resume from the one before."
            ) from None
        for name, part in self.parts.items():
            load_strictly(part, _under(tensors, f"weights/{name}/"), str(folder))
        for group in self.groups:
            self._load_group(group, tensors)
        return update, recent

    def _load_group(self, group: Group, tensors: Mapping[str, Tensor]) -> None:
        mean = self._renamed(group, _under(tensors, f"ema/{group.name}/"))
        memories: dict[str, dict[str, Tensor]] = {}
        for name, value in _under(tensors, f"optimiser/{group.name}/").items():
            key, _, what = name.rpartition("/")
            memories.setdefault(key, {})[what] = value
        memories = self._renamed(group, memories)
        optimiser = self.optimisers[group.name]
        for key, p in group.parameters.items():
            self.ema[group.name].mean[key].copy_(mean[key])
            if memory := memories.get(key):
                optimiser.state[p] = {what: _like(p, value) for what, value in memory.items()}

    def _renamed(self, group: Group, values: Mapping[str, T]) -> dict[str, T]:
        """The values of a group's parameters under today's names.

        A group names a parameter as its part does, or with the name of the part in front.
        """
        result = dict(values)
        for name, part in self.parts.items():
            for prefix in (f"{name}.", ""):
                inner = _under(result, prefix)
                others = {key: value for key, value in result.items() if not key.startswith(prefix)}
                wanted = _under(group.parameters, prefix)
                result = others | {
                    prefix + key: value for key, value in current_names(part, inner, wanted).items()
                }
        return result


def _under(tensors: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _like(p: nn.Parameter, value: Tensor) -> Tensor:
    """Optimiser state with the device and memory layout of its parameter, for fused optimisers."""
    if value.shape != p.shape:
        return value.to(p.device)
    return torch.empty_like(p, dtype=value.dtype).copy_(value)
