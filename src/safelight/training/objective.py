"""What a loop trains: parameter groups, each with its own loss and optimiser."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from safelight.data.dataset import Dataset
from safelight.model import Card, LatentDiffusion
from safelight.training.parallel import Processes

Report = Callable[[str, int, int], None]
"""Told what is under way, how much is done, and of how much."""


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that one optimiser updates, from update ``begins`` on, at ``rate`` times the recipe's rate.

    ``optimiser`` is its own kind of optimiser, where it has another than the recipe's.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    begins: int = 0
    rate: float = 1.0
    optimiser: Any = None


@dataclass(frozen=True, eq=False)
class Loss:
    """A scalar to descend, and what is worth writing down beside it."""

    total: Tensor
    measured: Mapping[str, Tensor]


class Objective(Protocol):
    """One stage of training. ``parts`` are saved; ``groups`` are updated in their order, each by its own loss.

    A batch is made of positions in the order of training and indices of the dataset; all randomness is keyed by
    position, so that a resumed or divided run draws the same. Losses are means over a batch, so that the mean over
    micro-batches and processes is that of the whole.
    """

    parts: Mapping[str, nn.Module]
    groups: Sequence[Group]
    stands_on: Mapping[str, str]  # hashes of trained parts that this stage takes as they are

    def prepare(self, datasets: Sequence[Dataset], report: Report) -> None: ...

    def batch(self, dataset: Dataset, positions: Sequence[int], indices: Sequence[int]) -> Any: ...

    def loss(self, group: str, batch: Any) -> Loss: ...

    def after_update(self, update: int) -> None:
        """After the optimisers' steps of an update: what changes otherwise than by gradient."""
        ...

    def judge(self, batch: Any) -> Mapping[str, Tensor]: ...

    def sheet(self, dataset: Dataset) -> Image.Image: ...

    def model(self, card: Card, dataset: Dataset) -> LatentDiffusion: ...


@dataclass(frozen=True, eq=False)
class Setting:
    """What a run hands to the objective that it builds.

    ``mean`` and ``total`` are taken over the processes of the run, and leave a tensor as it is if there is one. What is
    called by every process may use them (``loss``); ``judge``, ``sheet`` and ``model`` are the first one's alone.
    """

    seed: int
    cache: Path
    device: torch.device
    dtype: torch.dtype
    mean: Callable[[Tensor], Tensor] = Processes().mean
    total: Callable[[Tensor], Tensor] = Processes().total
