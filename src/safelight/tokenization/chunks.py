"""A weighted text as pages of so many ids, as one tower reads it at once."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from safelight.prompting.syntax import WeightedText


@dataclass(frozen=True)
class Page:
    """The ids of one pass, markers and padding included, and the weight of each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Frame:
    """What a page is made of: its ``length``, the ids ``ahead`` of the text and ``behind`` it (there may be none), and
    what pads, behind all of that or to the ``left`` of it."""

    length: int
    ahead: tuple[int, ...]
    behind: tuple[int, ...]
    pad: int
    left: bool = False

    @property
    def room(self) -> int:
        """How many ids of a text fit."""
        return self.length - len(self.ahead) - len(self.behind)

    def page(self, body: Sequence[tuple[int, float]]) -> Page:
        """The page of at most ``room`` ids."""
        ahead, behind = ([(one, 1.0) for one in around] for around in (self.ahead, self.behind))
        padding = [(self.pad, 1.0)] * (self.room - len(body))
        whole = [*ahead, *body, *behind]
        ids, weights = zip(*(padding + whole if self.left else whole + padding), strict=True)
        return Page(ids, weights)


Parts = Sequence[tuple[str, float, Sequence[int] | None, bool]]
"""Texts with their weights, the ids of those that are learned words, and whether each begins a page."""


def pages(
    chunks: Sequence[Sequence[WeightedText]],
    frame: Frame,
    most: int,
    pieces: Callable[[str], list[int]],
    learned: Mapping[str, Sequence[int]],
) -> list[Page]:
    """At most ``most`` pages; each of ``chunks`` begins a new one. What does not fit is left out: ``unread``.

    ``learned``: words, in lower case, with ids of their own, which stay together on a page.
    """
    done: list[list[tuple[int, float]]] = []
    for page, ids, weight, _ in _placed(_parts(chunks, learned), frame, pieces):
        if page >= most:
            break
        if page == len(done):
            done.append([])
        done[page] += [(one, weight) for one in ids]
    return [frame.page(body) for body in done]


def unread(
    chunks: Sequence[Sequence[WeightedText]],
    frame: Frame,
    most: int,
    pieces: Callable[[str], list[int]],
    learned: Mapping[str, Sequence[int]],
    behind: Callable[[str, int], str],
) -> str:
    """What of a text does not fit on ``most`` pages; ``behind`` gives what follows so many pieces of a text."""
    parts = _parts(chunks, learned)
    for page, _, _, (number, place) in _placed(parts, frame, pieces):
        if page >= most:
            text, _, ids, _ = parts[number]
            return (text if ids else behind(text, place)) + "".join(
                one[0] for one in parts[number + 1 :]
            )
    return ""


def _placed(
    parts: Parts, frame: Frame, pieces: Callable[[str], list[int]]
) -> Iterator[tuple[int, Sequence[int], float, tuple[int, int]]]:
    """What may not be parted: its page, its ids, its weight, and which text's which unit it is."""
    page, held = -1, 0
    for number, (text, weight, known, begins) in enumerate(parts):
        if begins:
            page, held = page + 1, 0
            yield page, (), weight, (number, 0)
        for place, unit in enumerate(
            [[one] for one in pieces(text)] if known is None else [known[: frame.room]]
        ):
            if held + len(unit) > frame.room:
                page, held = page + 1, 0
            held += len(unit)
            yield page, unit, weight, (number, place)


def _parts(chunks: Sequence[Sequence[WeightedText]], learned: Mapping[str, Sequence[int]]) -> Parts:
    """The texts with learned words apart, each known by its ids."""
    names = sorted(map(re.escape, learned), key=len, reverse=True)
    pattern = re.compile(
        rf"((?<!\w)(?:{'|'.join(names)})(?!\w))" if names else r"((?!))", re.IGNORECASE
    )
    return [
        (part, weight, learned.get(part.lower()), first == second == 0)
        for chunk in chunks
        for first, (text, weight) in enumerate(chunk)
        for second, part in enumerate(pattern.split(text))
    ]


def shown(text: str, most: int = 200) -> str:
    """A text in marks, of a long one the beginning."""
    return repr(" ".join(text[:most].split())) + (
        f" … ({len(text)} letters)" if len(text) > most else ""
    )
