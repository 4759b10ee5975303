"""Small classifiers over feature vectors: logistic regression, and the nearest mean of a class.

They learn from real training pictures only, and check what a generated picture shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EVIDENCE = 60.0
"""How much the mean cross-entropy of a logistic regression counts beside its penalty."""


@dataclass(frozen=True, eq=False)
class LogisticRegression:
    """Vectors (n, d) to one of ``names``; features are standardised as in training."""

    names: tuple[str, ...]
    weight: Tensor  # (d, classes)
    bias: Tensor
    mean: Tensor
    deviation: Tensor

    def probabilities(self, vectors: Tensor) -> Tensor:
        """(n, classes), float64."""
        x = (vectors.double() - self.mean) / self.deviation
        return F.softmax(x @ self.weight + self.bias, dim=1)

    def __call__(self, vectors: Tensor) -> list[str]:
        """The likeliest name of each vector."""
        return [self.names[place] for place in self.probabilities(vectors).argmax(1).tolist()]


def logistic_regression(
    vectors: Tensor, labels: Sequence[str], strength: float = 0.0, iterations: int = 200
) -> LogisticRegression:
    """Fitted by maximum likelihood with a penalty on the weights (not the bias), by L-BFGS.

    The loss is ``strength`` · Σ cross-entropy + ½ |W|², as scikit-learn's with C = ``strength``;
    0 weighs the mean cross-entropy by ``EVIDENCE``, however many pictures there are.
    """
    strength = strength or EVIDENCE / len(labels)
    x = vectors.double()
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x = (x - mean) / deviation
    names = tuple(sorted(set(labels)))
    target = torch.tensor([names.index(label) for label in labels])
    weight = torch.zeros(x.shape[1], len(names), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        wrong = F.cross_entropy(x @ weight + bias, target, reduction="sum")
        total = strength * wrong + 0.5 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return LogisticRegression(names, weight.detach(), bias.detach(), mean, deviation)


def centred_on(vectors: Tensor, kinds: Sequence[str], means: dict[str, Tensor]) -> Tensor:
    """Unit vectors of what is left of each vector without the mean of its kind (style)."""
    x = torch.stack([row - means[kind] for row, kind in zip(vectors.double(), kinds, strict=True)])
    return F.normalize(x, dim=1)


@dataclass(frozen=True, eq=False)
class NearestMean:
    """Vectors (n, d) of pictures of known kinds to one of ``names``, by the cosine to its mean.

    The mean of each kind is taken off first, so that a style does not pass for a thing.
    """

    names: tuple[str, ...]
    means: Tensor  # (classes, d), of unit vectors without their kind
    kinds: dict[str, Tensor]

    def __call__(self, vectors: Tensor, kinds: Sequence[str]) -> list[str]:
        """The name whose mean is nearest."""
        likeness = centred_on(vectors, kinds, self.kinds) @ F.normalize(self.means, dim=1).T
        return [self.names[place] for place in likeness.argmax(1).tolist()]


def kind_means(vectors: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """The mean vector of each kind."""
    return {
        kind: vectors[[place for place, name in enumerate(kinds) if name == kind]].double().mean(0)
        for kind in sorted(set(kinds))
    }


def nearest_mean(
    vectors: Tensor, labels: Sequence[str], kinds: Sequence[str], means: dict[str, Tensor]
) -> tuple[NearestMean, int]:
    """The classifier, and how many of its own pictures it names rightly when each is left out of
    the mean of its class (a class of one picture is always missed)."""
    names = tuple(sorted(set(labels)))
    x = centred_on(vectors, kinds, means)
    target = torch.tensor([names.index(label) for label in labels])
    member = F.one_hot(target, len(names)).double()  # (n, classes)
    sums, sizes = member.T @ x, member.sum(0)
    right = 0
    for place, number in enumerate(target.tolist()):
        others = sums.clone()
        others[number] -= x[place]
        if sizes[number] > 1:
            right += int((F.normalize(others, dim=1) @ x[place]).argmax() == number)
    return NearestMean(names, sums / sizes[:, None], means), right
