"""Modules built without the memory of their weights, to be given those of a file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Built = TypeVar("Built", bound=nn.Module)


def meta_init(build: Callable[[], Built]) -> Built:
    """What ``build`` makes, its weights on the meta device: neither allocated nor drawn.

    Only what begins as ``torch.empty``, as the weights of all layers do, is left out. Buffers and
    tables that are computed are as real as ever, so that those which no file holds are right.
    """
    with _Unmade():
        return build()


class _Unmade(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if (
            func is torch.nn.init.normal_ and given["tensor"].is_meta
        ):  # nothing to draw, and asking imports a compiler
            return given["tensor"]
        if func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)
