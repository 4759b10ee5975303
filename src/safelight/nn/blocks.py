"""What can be done to a network's blocks without the network taking part: computing them anew,
compiling them.

A block is the outermost composite element of a ``ModuleList`` or ``Sequential``, at any depth: a
residual block of a pyramid, a block of a transformer. Most of a network's activations and time are
spent there, and what is done to a block changes neither names nor values of weights.
"""

from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from safelight.errors import BadInput


class BlockSelection(NamedTuple):
    """The blocks that one forward pass changes: ``skip`` are left out whole; in ``alone`` every
    patch attends only to itself."""

    skip: frozenset[int] = frozenset()
    alone: frozenset[int] = frozenset()

    @classmethod
    def of(cls, skip: Iterable[int], alone: Iterable[int], count: int) -> "BlockSelection":
        """BadInput if a block is named that a transformer of ``count`` blocks does not have."""
        for block in (*skip, *alone):
            if not 0 <= block < count:
                raise BadInput(
                    f"this transformer has the blocks 0 to {count - 1}, not {block}: name these."
                )
        return cls(frozenset(skip), frozenset(alone))


ALL_BLOCKS = BlockSelection()


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network in the order of its modules; no block lies inside another."""
    stacked = isinstance(network, nn.ModuleList | nn.Sequential)
    for child in network.children():
        if stacked and any(True for _ in child.children()):
            yield child
        else:
            yield from blocks(child)


def recompute(network: nn.Module) -> None:
    """From now on keep only what enters each block, and compute the rest anew in the backward pass.

    The gradients are the same, for about a third more computing and a fraction of the memory (Chen
    et al., arXiv 1604.06174). What a network gives a block it gives by position.
    """
    for block in blocks(network):
        block.forward = MethodType(
            _anew, block
        )  # a method, so that a copy of the block calls itself


def compile_blocks(network: nn.Module) -> None:
    """From now on compile each block when it is first called, for the shapes that it is called
    with."""
    torch._dynamo.config.recompile_limit = (
        256  # beyond the usual 8 kinds of blocks a pyramid's others would stay plain
    )
    for block in blocks(network):
        block.compile(dynamic=False)


def _anew(block: nn.Module, *given: Any) -> Any:
    return checkpoint(type(block).forward, block, *given, use_reentrant=False)
