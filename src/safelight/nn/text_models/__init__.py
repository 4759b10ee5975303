"""Networks that read a text, one file a kind: ids of its pieces → a state for each piece."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Tower(Protocol):
    """What a text conditioner asks of such a network; ``embedding`` is the table of its pieces, ``norm`` the last."""

    embedding: nn.Embedding
    norm: nn.Module

    def __call__(
        self, x: Tensor, skip: int = 0, whole: bool = False, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Embedded pieces ``x`` (b, n, width) → the states before the last ``skip`` blocks, not normed, and, if
        ``whole``, those after all blocks, normed; both (b, n, width). ``counts`` (b, n) is true for what does not pad;
        CLIP's, T5's and BERT's towers were trained to take no notice of it."""
        ...

    def project(self, state: Tensor) -> Tensor:
        """A normed state (b, width) in the space that the network shares with pictures (b, projection)."""
        ...


@runtime_checkable
class Network(Protocol):
    """The configuration of a network that reads; ``length`` is the most pieces that it can read, 0 if it has no such
    bound, ``projection`` the width of its vectors, 0 if it makes none."""

    @property
    def width(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def projection(self) -> int: ...

    def build(self) -> Any: ...
