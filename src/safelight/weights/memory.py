"""How tensors come to memory: as they are stored, or at once in the precision and layout that a
model computes in."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

BLOCK = 1 << 18  # numbers that are converted at a time, in the processor's cache


@dataclass(frozen=True)
class LoadOptions:
    """What becomes of tensors as they are read, and who counts their bytes.

    ``dtype`` is for numbers with a point (None: as they are stored); ``channels_last`` is for the
    weights of convolutions. A tensor that stays as it is shares the memory of the file's pages.
    """

    dtype: "torch.dtype | None" = None
    channels_last: bool = False
    count: Callable[[int], object] = int

    def of(self, tensor: "Tensor") -> "Tensor":
        """The tensor as it is wanted: itself, or a copy, made in one pass over memory.

        Half the bits become another half by way of all of them, since that is vectorised, and five
        times as fast; and numbers change their type before their place.
        """
        import torch

        dtype = (
            self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype
        )
        last = self.channels_last and tensor.ndim == 4 and prod(tensor.shape[2:]) > 1
        if dtype == tensor.dtype and not last:
            return tensor
        layout = torch.channels_last if last else torch.contiguous_format
        if tensor.numel() <= BLOCK:
            return (
                tensor.float().to(dtype, memory_format=layout)
                if dtype.is_floating_point
                else tensor.to(dtype)
            )
        made = torch.empty(tensor.shape, dtype=dtype, memory_format=layout)
        rows = max(1, BLOCK * len(tensor) // tensor.numel())
        for theirs, ours in zip(torch.split(tensor, rows), torch.split(made, rows), strict=True):
            halves = theirs.dtype.itemsize == dtype.itemsize == 2
            block = theirs.float() if halves and theirs.dtype != dtype else theirs
            ours.copy_(block.to(dtype) if last else block)
        return made


AS_STORED = LoadOptions()


def at_once(work: Callable[[T], R], items: Collection[T]) -> Iterator[R]:
    """The results in order, as many under way as torch has threads, up to eight: then memory is
    the limit.

    Each worker's torch has one thread, for several would wait for one another at every block.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, len(items), 8)
    if workers < 2:
        yield from map(work, items)
        return
    ready = Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(
            1
        )  # of this thread, and of those that begin hereafter: so it is said again below
        torch.get_num_threads()  # which settles it for this one
        ready.wait()

    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        results = pool.map(work, items)
        ready.wait()
        torch.set_num_threads(threads)
        yield from results


def finite(tensor: "Tensor") -> bool:
    """Whether no value is NaN or infinite; integers always are."""
    import torch

    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:
        tensor = tensor.to(torch.float16)
    if bool(
        torch.isfinite(tensor.sum())
    ):  # half the time, but it may overflow where no value is infinite
        return True
    return all(
        bool(torch.isfinite(one)) for one in torch.aminmax(tensor)
    )  # both are NaN where there is one
