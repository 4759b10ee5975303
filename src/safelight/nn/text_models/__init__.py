"""Networks that encode a text, one file a kind: embedded tokens → a state for each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class TextModel(Protocol):
    """What a conditioner needs of such a network.

    ``embedding`` is the table of token embeddings, ``norm`` the final norm.
    """

    embedding: nn.Embedding
    norm: nn.Module

    def __call__(
        self, x: Tensor, skip: int = 0, full: bool = False, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Embedded tokens ``x`` (b, n, width) → states (b, n, width), and the last ones.

        The first result are the states before the last ``skip`` blocks, not normed; the second, if
        ``full``, those after all blocks, normed. ``mask`` (b, n) is false for padding; CLIP, T5 and
        BERT were trained without it and ignore it.
        """
        ...

    def project(self, state: Tensor) -> Tensor:
        """A normed state (b, width) in the space shared with pictures (b, projection)."""
        ...


@runtime_checkable
class TextModelConfig(Protocol):
    """The configuration of a text model.

    ``length`` is the largest number of tokens that it reads, 0 if there is no limit;
    ``projection`` is the width of its vectors, 0 if it makes none.
    """

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
