"""The prompt syntax of AUTOMATIC1111's web UI, read in time that grows with the length of the text alone.

Weights: ``(x)`` times 1.1, ``[x]`` divided by 1.1, ``(x:1.3)`` times 1.3, ``\\(`` a bracket as a letter; a bracket that
is not closed reaches to the end; ``BREAK`` between blanks begins a new chunk. Schedules, by the step: ``[from:to:0.5]``
changes at half of the steps, rounded down, ``[to:10]`` adds after the tenth, ``[from::0.5]`` takes away, ``[a|b]``
alternates. ``a AND b :0.5`` are prompts of their own, each with a weight.
"""

import re
from itertools import pairwise
from typing import NamedTuple

Weighted = tuple[str, float]
"""Some text, and how much it is to weigh."""

MOST = 100.0  # no weight is larger, so that a thousand brackets overflow nothing
_TOKEN = re.compile(
    r"\\[()\[\]\\]|\\|[(\[\])]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|:|\bBREAK\b|(?:(?!\bBREAK\b)[^\\()\[\]:])+"
)
_LETTERS = re.compile(r"\\.|\\|[()\[\]:|]|[^\\()\[\]:|]+", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")


def weights(text: str) -> list[list[Weighted]]:
    """The chunks that ``BREAK`` parts, each as text with its weight; neighbours of one weight are one piece."""
    tokens = [(found[0], found[1]) for found in _TOKEN.finditer(text)]
    factors = _factors(tokens)
    chunks: list[list[tuple[list[str], float]]] = [[]]
    running: dict[str, list[float]] = {"(": [1.0], "[": [1.0]}
    for place, (token, _) in enumerate(tokens):
        if token == "BREAK":
            chunks.append([])
        elif place not in factors:
            weight = _bounded(running["("][-1] * running["["][-1])
            if not chunks[-1] or chunks[-1][-1][1] != weight:
                chunks[-1].append(([], weight))
            chunks[-1][-1][0].append(token[1:] if len(token) == 2 and token[0] == "\\" else token)
        elif (factor := factors[place]) is not None:
            running[token].append(_bounded(running[token][-1] * factor))
        else:
            running["[" if token == "]" else "("].pop()
    return [_pieces(chunk, len(chunks) > 1) for chunk in chunks]


def _pieces(chunk: list[tuple[list[str], float]], parted: bool) -> list[Weighted]:
    """A chunk's texts, less the blanks beside BREAK."""
    pieces = [("".join(texts), weight) for texts, weight in chunk]
    if parted and pieces:
        pieces[0] = (pieces[0][0].lstrip(), pieces[0][1])
        pieces[-1] = (pieces[-1][0].rstrip(), pieces[-1][1])
    return [piece for piece in pieces if piece[0]] or [("", 1.0)]


def _factors(tokens: list[tuple[str, str | None]]) -> dict[int, float | None]:
    """The brackets that mean something: what each opening one multiplies by, None for those that close."""
    usual = {"(": 1.1, "[": 1 / 1.1}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    factors: dict[int, float | None] = {}
    for place, (token, number) in enumerate(tokens):
        if token in usual:
            opened[token].append(place)
            factors[place] = usual[token]
        elif token == "]" or (token[-1] == ")" and token[0] != "\\"):
            stack = opened["[" if token == "]" else "("]
            if stack:
                begin = stack.pop()
                factors[place] = None
                factors[begin] = (
                    usual["[" if token == "]" else "("] if number is None else float(number)
                )
    return factors


def _bounded(weight: float) -> float:
    return max(-MOST, min(MOST, weight))


def composed(text: str) -> list[Weighted]:
    """The prompts that ``AND`` parts, each with the weight behind its last colon, if there is one; else the text."""
    parts = re.split(r"\bAND\b", text)
    return [_weighed(part) for part in parts] if len(parts) > 1 else [(text, 1.0)]


def _weighed(part: str) -> Weighted:
    before, colon, after = part.rpartition(":")
    number = _NUMBER.fullmatch(after) if colon else None
    return (before.strip(), float(number[1])) if number else (part.strip(), 1.0)


def scheduled(text: str) -> bool:
    """Whether the text differs between steps."""
    return _may_change(text) and bool(_schedules(_LETTERS.findall(text)))


def at(text: str, step: int, steps: int) -> str:
    """The text that holds at ``step`` (from 0) of ``steps``; weights stay in it as they are written."""
    if not _may_change(text):
        return text
    tokens = _LETTERS.findall(text)
    schedules = _schedules(tokens)
    said: list[str] = []
    left = [(0, len(tokens))]  # to be read, the next range last
    while left:
        place, end = left.pop()
        found = next((one for one in range(place, end) if one in schedules), end)
        said += tokens[place:found]
        if found < end:
            left += [(schedules[found].end + 1, end), schedules[found].chosen(found, step, steps)]
    return "".join(said)


def _may_change(text: str) -> bool:
    return "]" in text and (":" in text or "|" in text)


class _Schedule(NamedTuple):
    """A bracket of which something else holds at different steps: ``when`` it changes, or by turns; where its ``marks``
    stand, and its ``end``."""

    when: str
    marks: list[int]
    end: int

    def chosen(self, begin: int, step: int, steps: int) -> tuple[int, int]:
        """From where to where that reaches which holds."""
        borders = [begin, *self.marks, self.end]
        parts = [(before + 1, after) for before, after in pairwise(borders)]
        if self.when == "|":
            return parts[step % len(parts)]
        change = int(self.when) if "." not in self.when else int(float(self.when) * steps)
        before, after = (parts[0], parts[1]) if len(parts) == 3 else ((begin, begin), parts[0])
        return before if step < change else after


def _schedules(tokens: list[str]) -> dict[int, _Schedule]:
    """All schedules by the place where they begin; a bracket that is not closed, or closes nothing, is a letter."""
    found: dict[int, _Schedule] = {}
    marks: dict[int, list[int]] = {}
    opened: list[int] = []
    squares = 0
    for place, token in enumerate(tokens):
        if token == "(" or token == "[":
            opened.append(place)
            squares += token == "["
        elif not opened:
            continue
        elif token == ")":
            if tokens[opened[-1]] == "(":
                opened.pop()
        elif token == "]" and squares:
            while tokens[begin := opened.pop()] == "(":
                pass
            squares -= 1
            if begin in marks and (when := _when(tokens, marks[begin], place)):
                found[begin] = _Schedule(when, marks[begin], place)
        elif (token == ":" or token == "|") and tokens[opened[-1]] == "[":
            marks.setdefault(opened[-1], []).append(place)
    return found


def _when(tokens: list[str], marks: list[int], end: int) -> str:
    """When a bracket with these marks changes; empty if it is none that does."""
    kinds = [tokens[mark] for mark in marks]
    if ":" not in kinds:
        return "|"
    number = _NUMBER.fullmatch(tokens[end - 1]) if end - marks[-1] == 2 else None
    return number[1] if number and kinds in ([":"], [":", ":"]) else ""
