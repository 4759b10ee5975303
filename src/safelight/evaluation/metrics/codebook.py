"""How much of a codebook is used: the share of codes that occur, and their perplexity."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.evaluation.metric import Pairs


@dataclass(frozen=True)
class Config:
    """There are no options."""

    def build(self) -> "Codebook":
        return Codebook()


class Codebook:
    """Usage and perplexity; perplexity is the number of equally frequent codes of that entropy."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def update(self, pairs: Pairs) -> None:
        if pairs.indices is not None:
            counts = torch.bincount(pairs.indices.flatten().cpu(), minlength=pairs.codes)
            self._counts = counts if self._counts is None else self._counts + counts

    def compute(self) -> Iterator[tuple[str, float]]:
        if self._counts is not None:
            shares = self._counts.double() / self._counts.sum()
            yield f"codebook usage (of {len(shares)} codes)", float((shares > 0).double().mean())
            yield (
                "codebook perplexity",
                float(torch.exp(-torch.special.xlogy(shares, shares).sum())),
            )
