"""What the training loop trains: groups of parameters, each with its own loss and optimiser."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from safelight.card import Card
from safelight.data.dataset import Dataset
from safelight.model import LatentDiffusion
from safelight.training.parallel import Processes

ProgressCallback = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters with one optimiser, updated from update ``start`` on.

    ``rate`` multiplies the recipe's learning rate; ``optimiser`` is None for the recipe's.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    start: int = 0
    rate: float = 1.0
    optimiser: Any = None


@dataclass(frozen=True, eq=False)
class Loss:
    """A scalar to minimise, and metrics to log."""

    total: Tensor
    metrics: Mapping[str, Tensor]


class Objective(Protocol):
    """One stage of training.

    ``parts`` are saved; ``groups`` are updated in order, each by its own loss. A batch is made from
    positions in the order of training and indices of the dataset. All random numbers are keyed by
    position, so that a run draws the same ones when it resumes and for any number of processes.
    Losses are means over a batch, so that the mean over micro-batches and processes is that of the
    whole batch.
    """

    parts: Mapping[str, nn.Module]
    groups: Sequence[Group]
    parents: Mapping[str, str]  # hashes of trained parts that this stage uses unchanged

    def prepare(self, datasets: Sequence[Dataset], progress: ProgressCallback) -> None: ...

    def batch(self, dataset: Dataset, positions: Sequence[int], indices: Sequence[int]) -> Any: ...

    def loss(self, group: str, batch: Any) -> Loss: ...

    def after_update(self, update: int) -> None:
        """Change what is not changed by gradients, such as a codebook; called after each update."""
        ...

    def validate(self, batch: Any) -> Mapping[str, Tensor]: ...

    def sheet(self, dataset: Dataset) -> Image.Image: ...

    def model(self, card: Card, dataset: Dataset) -> LatentDiffusion: ...


@dataclass(frozen=True, eq=False)
class RunContext:
    """What an objective needs to know of the run that it belongs to.

    ``mean`` and ``total`` are taken over the processes of the run. ``loss`` may use them, because
    every process calls it; ``validate``, ``sheet`` and ``model`` are called by the first one only.
    """

    seed: int
    cache: Path
    device: torch.device
    dtype: torch.dtype
    mean: Callable[[Tensor], Tensor] = Processes().mean
    total: Callable[[Tensor], Tensor] = Processes().total
