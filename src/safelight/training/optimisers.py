"""Optimisers: AdamW, and Muon for matrices."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.runtime import dtype_of


@dataclass(frozen=True)
class Adamw:
    """AdamW (arXiv 1711.05101), fused. ``decay`` is not applied to biases and gains."""

    betas: tuple[float, float] = (0.9, 0.99)
    decay: float = 0.0
    eps: float = 1e-8

    def build(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        matrices = [p for p in parameters.values() if p.dim() >= 2]
        rest = [p for p in parameters.values() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": self.decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True)
class Muon:
    """Muon (Jordan, 2024) for hidden matrices: orthogonalised momentum; AdamW for the rest.

    The update of a matrix is scaled to the usual size of AdamW's (arXiv 2502.16982, eq. 4), so that
    one learning rate serves both. AdamW also updates embeddings and matrices with a side shorter
    than ``min_side``.
    """

    momentum: float = 0.95
    decay: float = 0.0
    min_side: int = 64
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise BadInput(f"muon: wanted a momentum from 0 to below 1, got {self.momentum}.")

    def build(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        return MuonOptimiser(parameters, self)


class MuonOptimiser(torch.optim.Optimizer):
    """The optimiser of ``Muon``; parameter groups with the key ``muon`` hold hidden matrices."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], options: Muon) -> None:
        def hidden(name: str, p: nn.Parameter) -> bool:
            return (
                p.dim() == 2
                and min(p.shape) >= options.min_side
                and not re.search("embed|table", name)
            )

        matrices = [p for name, p in parameters.items() if hidden(name, p)]
        rest = [p for name, p in parameters.items() if not hidden(name, p)]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "muon": True},
            {"params": rest, "muon": False},
        ]
        self.options = options
        super().__init__([group for group in groups if group["params"]], {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["muon"] else self._adam)(parameters, group["lr"])

    def _muon(self, parameters: list[nn.Parameter], rate: float) -> None:
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - self.options.momentum)
            update = orthogonalised(p.grad.lerp(state["momentum"], self.options.momentum))
            p.mul_(1 - rate * self.options.decay)
            p.add_(update.to(p.dtype), alpha=-rate * 0.2 * math.sqrt(max(p.shape)))

    def _adam(self, parameters: list[nn.Parameter], rate: float) -> None:
        for p in parameters:
            state = self.state[p]
            if not state:
                step = torch.zeros((), device=p.device)
                state |= {"step": step, "first": torch.zeros_like(p), "second": torch.zeros_like(p)}
        if not parameters:
            return
        states = [self.state[p] for p in parameters]
        torch._fused_adamw_(
            list[Tensor](parameters),
            [p.grad for p in parameters if p.grad is not None],
            [s["first"] for s in states],
            [s["second"] for s in states],
            [],
            [s["step"].add_(1) for s in states],
            lr=rate,
            beta1=self.options.betas[0],
            beta2=self.options.betas[1],
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


def orthogonalised(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Roughly the nearest orthogonal matrix: its singular values are between about 0.7 and 1.2.

    Newton–Schulz iteration with the quintic of Jordan (2024), on the shorter side, in bf16 where
    that is faster than fp32 on the device.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.to(dtype_of("auto", matrix.device))
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x  # type: ignore[no-any-return]
