"""The common form of a refused option: what was wanted, what was got, what to do."""

from safelight.errors import BadInput


def require(holds: bool, wanted: str, got: object, remedy: str) -> None:
    """Raises BadInput "``wanted``, got ``got``: ``remedy``." unless ``holds``.

    Comparisons with NaN never hold, so NaN is refused.
    """
    if not holds:
        raise BadInput(f"{wanted}, got {got!r}: {remedy}.")
