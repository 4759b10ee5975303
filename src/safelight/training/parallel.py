"""Several processes that train one model: each takes its share of every batch, and what they find is averaged.

There is no wrapper around the network, so nothing that an objective calls (encode, decode, a discriminator) can go past
it: the gradients of a whole update are averaged when they are there, whoever made them."""

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
"""Numbers that are sent at once: 64 MiB of float32, so that gradients are never held twice as a whole."""

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """All processes of a run, seen from the one of this ``rank``; alone, every exchange leaves things as they are.

    What exchanges must be called by all of them, in the same order. The first one alone writes and judges, while the
    others wait at their next exchange. An exchange raises SafelightError if one of them is gone.
    """

    rank: int = 0
    world: int = 1
    local: int = 0  # the rank among those of this machine

    @property
    def first(self) -> bool:
        """True for the one that writes."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """A device by name; of several GPUs each process takes its own unless the name says which."""
        device = device_of(name)
        if self.world > 1 and device.type == "cuda" and device.index is None:
            device = device_of(f"cuda:{self.local}")
            torch.cuda.set_device(device)
        return device

    def share(self, batch: int, accumulate: int) -> None:
        """BadInput unless a batch of this size can be divided evenly."""
        if batch % (self.world * accumulate):
            raise BadInput(
                f"loop.batch: {batch} pictures cannot be divided among {self.world} processes of {accumulate} "
                f"micro-batches each; take a multiple of {self.world * accumulate}."
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
                "another process of this run has ended, so this one ends too; the last checkpoint stands."
            ) from error
        return total

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, of any shape; no gradient goes through it."""
        return values if self.world == 1 else self.total(values) / self.world

    def means(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Measures of the same names, each averaged."""
        values = self.mean(torch.tensor(list(measured.values()), dtype=torch.float64))
        return dict(zip(measured, values.tolist(), strict=True))

    def any(self, here: bool) -> bool:
        """True for all if it is true for one."""
        return here if self.world == 1 else bool(self.total(torch.tensor(float(here))))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The others enter the block when the first has left it, and find what it has made."""
        if not self.first:
            self.any(False)
        yield
        if self.first:
            self.any(False)

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients; one that only some processes have counts as zero for the others."""
        if self.world == 1:
            return
        had = self.total(torch.tensor([float(p.grad is not None) for p in parameters]))
        some = [p for p, count in zip(parameters, had.tolist(), strict=True) if count]
        for bucket in _buckets(some):
            flat = self.mean(torch.cat([_gradient(p).flatten() for p in bucket]))
            for p, values in zip(
                bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True
            ):
                _gradient(p).copy_(values.view(p.shape))


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that ``torchrun`` started, or this one alone; gloo speaks for CPUs, NCCL for GPUs.

    If one fails, all end. The one that failed first tells why; the others leave in silence with its exit code.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield Processes()
        return
    if missing := [name for name in VARIABLES if name not in os.environ]:
        raise BadInput(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} is not set; start it by torchrun."
        )
    patience = timedelta(
        days=1
    )  # the first may judge, draw or fill the cache for long; the dead are noticed at once
    store, rank, world = next(rendezvous("env://", timeout=timedelta(minutes=5)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    processes = Processes(rank, world, _number("LOCAL_RANK", rank))
    try:
        yield processes
        processes.any(False)  # the others stay until the first has saved
    except Exception as error:
        if _spoken(store):
            raise SystemExit(error.exit_code if isinstance(error, SafelightError) else 1) from error
        raise
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    given = os.environ.get(name, "")
    if given and not given.isdigit():
        raise BadInput(
            f"{name}: wanted a number in this variable of the environment, got {given!r}; unset it."
        )
    return int(given or default)


def _spoken(store: dist.Store) -> bool:  # type: ignore[name-defined]  # of c10d, which has no stubs
    """True if another process failed earlier, or has taken the store with it."""
    try:
        return bool(store.add("failed", 1) > 1)
    except RuntimeError:
        return True


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for p in parameters:
        if bucket and sum(one.numel() for one in bucket) + p.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket


def _gradient(p: nn.Parameter) -> Tensor:
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    return p.grad
