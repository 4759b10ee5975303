"""Data-parallel training: each process takes its share of every batch, and gradients are averaged.

There is no wrapper around the network: the gradients of an update are averaged once all of them are
computed, so that an objective may call any method of a network (encode, decode, a discriminator).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from safelight.errors import BadInput, SafelightError
from safelight.runtime import device_of

BUCKET = 1 << 24
"""How many numbers are sent at once: 64 MiB of float32, to hold no second copy of all gradients."""

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from the one of this ``rank``; a single one exchanges nothing.

    Methods that exchange values must be called by all processes in the same order. Only the first
    process writes and validates, while the others wait at their next exchange. An exchange raises
    SafelightError if a process has ended.
    """

    rank: int = 0
    world: int = 1
    local: int = 0  # the rank among the processes of this machine

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """A device by name; each process takes a GPU of its own unless the name has a number."""
        device = device_of(name)
        if self.world > 1 and device.type == "cuda" and device.index is None:
            device = device_of(f"cuda:{self.local}")
            torch.cuda.set_device(device)
        return device

    def share(self, batch: int, accumulate: int) -> None:
        """BadInput unless a batch of this size can be divided evenly."""
        if batch % (self.world * accumulate):
            raise BadInput(
                f"loop.batch: {batch} pictures cannot be divided among {self.world} processes "
                f"of {accumulate} micro-batches each; take a multiple of {self.world * accumulate}."
            )

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, of any shape; no gradient goes through it."""
        if self.world == 1:
            return values
        total = values.detach().clone(memory_format=torch.contiguous_format)
        try:
            dist.all_reduce(total)
        except RuntimeError as error:
            raise SafelightError(
                "another process of this run has ended, so this one ends too; "
                "the last checkpoint is kept."
            ) from error
        return total

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, of any shape; no gradient goes through it."""
        return values if self.world == 1 else self.total(values) / self.world

    def means(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics, each averaged over the processes."""
        values = self.mean(torch.tensor(list(metrics.values()), dtype=torch.float64))
        return dict(zip(metrics, values.tolist(), strict=True))

    def any(self, here: bool) -> bool:
        """True in all processes if it is true in one."""
        return here if self.world == 1 else bool(self.total(torch.tensor(float(here))))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The other processes enter the block once the first has left it, and find what it made."""
        if not self.first:
            self.any(False)
        yield
        if self.first:
            self.any(False)

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients; where a process has none it counts as zero."""
        if self.world == 1:
            return
        had = self.total(torch.tensor([float(p.grad is not None) for p in parameters]))
        shared = [p for p, count in zip(parameters, had.tolist(), strict=True) if count]
        for bucket in _buckets(shared):
            flat = self.mean(torch.cat([_gradient(p).flatten() for p in bucket]))
            for p, values in zip(
                bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True
            ):
                _gradient(p).copy_(values.view(p.shape))


@contextmanager
def process_group() -> Iterator[Processes]:
    """The processes that ``torchrun`` started, or this one alone.

    They communicate by gloo on CPUs and NCCL on GPUs. If one fails, all end. The first that failed
    prints why; the others end with its exit code.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield Processes()
        return
    if missing := [name for name in VARIABLES if name not in os.environ]:
        raise BadInput(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} is not set; "
            "start training with torchrun."
        )
    # The first may validate or fill the cache for long; processes that ended are noticed at once.
    timeout = timedelta(days=1)
    store, rank, world = next(rendezvous("env://", timeout=timedelta(minutes=5)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    processes = Processes(rank, world, _number("LOCAL_RANK", rank))
    try:
        yield processes
        processes.any(False)  # the others wait until the first has saved
    except Exception as error:
        if _another_failed(store):
            raise SystemExit(error.exit_code if isinstance(error, SafelightError) else 1) from error
        raise
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdigit():
        raise BadInput(
            f"{name}: wanted a number in this environment variable, got {text!r}; unset it."
        )
    return int(text or default)


def _another_failed(store: dist.Store) -> bool:  # type: ignore[name-defined]  # of c10d, which has no stubs
    """Whether another process failed earlier, or ended together with the store."""
    try:
        return bool(store.add("failed", 1) > 1)
    except RuntimeError:
        return True


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for p in parameters:
        if bucket and sum(other.numel() for other in bucket) + p.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket


def _gradient(p: nn.Parameter) -> Tensor:
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    return p.grad
