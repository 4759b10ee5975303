"""A weighted text as pages of so many ids, as one tower reads it at once."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from safelight.conditioners.reading.syntax import Weighted


@dataclass(frozen=True)
class Page:
    """The ids of one pass, markers and padding included, and the weight of each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Frame:
    """What a page is made of: its ``length``, the ids around the text (``begin`` may be missing) and behind it."""

    length: int
    begin: int | None
    end: int
    pad: int

    @property
    def room(self) -> int:
        """How many ids of a text fit."""
        return self.length - (1 if self.begin is None else 2)

    def page(self, body: Sequence[tuple[int, float]]) -> Page:
        """The page of at most ``room`` ids."""
        around = ([] if self.begin is None else [(self.begin, 1.0)], [(self.end, 1.0)])
        rest = self.room - len(body)
        ids, weights = zip(*around[0], *body, *around[1], *([(self.pad, 1.0)] * rest), strict=True)
        return Page(ids, weights)


def pages(
    chunks: Sequence[Sequence[Weighted]],
    frame: Frame,
    most: int,
    pieces: Callable[[str], list[int]],
    learned: Mapping[str, Sequence[int]],
) -> list[Page]:
    """At most ``most`` pages; each of ``chunks`` begins a new one. What does not fit is left out.

    ``learned``: words, in lower case, with ids of their own, which stay together on a page.
    """
    done: list[list[tuple[int, float]]] = []
    for chunk in chunks:
        done.append([])
        for text, weight in chunk:
            for unit in _units(text, pieces, learned):
                if len(done[-1]) + len(unit) > frame.room:
                    done.append([])
                if len(done) > most:
                    return [frame.page(body) for body in done[:most]]
                done[-1] += [(one, weight) for one in unit[: frame.room]]
    return [frame.page(body) for body in done[:most]]


def _units(
    text: str, pieces: Callable[[str], list[int]], learned: Mapping[str, Sequence[int]]
) -> Iterable[Sequence[int]]:
    """What may not be parted: single pieces, and all of a learned word."""
    if not learned:
        return [[one] for one in pieces(text)]
    names = sorted(map(re.escape, learned), key=len, reverse=True)
    units: list[Sequence[int]] = []
    for part in re.split(rf"((?<!\w)(?:{'|'.join(names)})(?!\w))", text, flags=re.IGNORECASE):
        known = learned.get(part.lower())
        units += [[one] for one in pieces(part)] if known is None else [known]
    return units
