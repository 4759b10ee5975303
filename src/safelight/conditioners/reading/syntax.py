"""The prompt syntax of AUTOMATIC1111's web UI, read in time that grows with the length of the text alone.

Weights: ``(x)`` times 1.1, ``[x]`` divided by 1.1, ``(x:1.3)`` times 1.3, ``\\(`` a bracket as a letter; a bracket that
is not closed reaches to the end; ``BREAK`` between blanks begins a new chunk. Schedules, by the step: ``[from:to:0.5]``
changes at half of the steps, ``[to:10]`` adds from the tenth on, ``[from::0.5]`` takes away, ``[a|b]`` alternates.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Weighted = tuple[str, float]
"""Some text, and how much it is to weigh."""

MOST = 100.0  # no weight is larger, so that a thousand brackets overflow nothing
_TOKEN = re.compile(
    r"\\[()\[\]\\]|\\|[(\[\])]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|:|\bBREAK\b|(?:(?!\bBREAK\b)[^\\()\[\]:])+"
)
_NUMBER = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*")


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
                factors[begin] = usual["[" if token == "]" else "("] if number is None else float(number)
    return factors


def _bounded(weight: float) -> float:
    return max(-MOST, min(MOST, weight))


def scheduled(text: str) -> bool:
    """Whether the text differs between steps."""
    return _may_change(text) and any(
        isinstance(frame, _Frame) and frame.when is not None for frame in _frames(_parsed(text))
    )


def at(text: str, step: int, steps: int) -> str:
    """The text that holds at ``step`` (from 0) of ``steps``; weights stay in it as they are written."""
    if not _may_change(text):
        return text
    said: list[str] = []
    left: list[str | _Frame] = _parsed(text)[::-1]
    while left:
        one = left.pop()
        if isinstance(one, str):
            said.append(one)
        else:
            left += one.chosen(step, steps)[::-1]
    return "".join(said)


def _may_change(text: str) -> bool:
    return "]" in text and (":" in text or "|" in text)


@dataclass(eq=False)
class _Frame:
    """A bracket: the parts between its separators, and, if it is a schedule, ``when`` it changes; 0: alternates."""

    opening: str
    parts: "list[list[str | _Frame]]" = field(default_factory=lambda: [[]])
    marks: list[str] = field(default_factory=list)
    closing: str = ""
    when: str | None = None

    def chosen(self, step: int, steps: int) -> "list[str | _Frame]":
        if self.when == "|":
            return self.parts[step % len(self.parts)]
        if self.when is not None:
            change = float(self.when) if "." not in self.when else float(self.when) * steps
            before, after = (self.parts[0], self.parts[1]) if len(self.parts) == 3 else ([], self.parts[0])
            return before if step < change else after
        whole: list[str | _Frame] = [self.opening, *self.parts[0]]
        for mark, part in zip(self.marks, self.parts[1:], strict=True):
            whole += [mark, *part]
        return [*whole, self.closing]

    def close(self, closing: str) -> None:
        self.closing = closing
        if closing != "]":
            return
        last = self.parts[-1]
        number = _NUMBER.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
        if self.marks and set(self.marks) == {"|"}:
            self.when = "|"
        elif number and self.marks in ([":"], [":", ":"]):
            self.when = number[1]


def _parsed(text: str) -> list[str | _Frame]:
    """The text as a tree of brackets; one that is not closed, or closes nothing, is a letter."""
    stack = [_Frame("")]
    squares = 0
    for token in re.findall(r"\\.|\\|[()\[\]:|]|[^\\()\[\]:|]+", text, flags=re.DOTALL):
        top = stack[-1]
        if token in ("(", "["):
            stack.append(_Frame(token))
            squares += token == "["
        elif token == ")" and top.opening == "(":
            stack.pop().close(token)
            stack[-1].parts[-1].append(top)
        elif token == "]" and squares:
            while stack[-1].opening != "[":
                loose = stack.pop()
                stack[-1].parts[-1].append(loose)
            squares -= 1
            closed = stack.pop()
            closed.close(token)
            stack[-1].parts[-1].append(closed)
        elif token in (":", "|") and top.opening == "[":
            top.marks.append(token)
            top.parts.append([])
        else:
            top.parts[-1].append(token)
    while len(stack) > 1:
        loose = stack.pop()
        stack[-1].parts[-1].append(loose)
    return stack[0].parts[0]


def _frames(tree: list[str | _Frame]) -> Iterator[_Frame]:
    left = [one for one in tree if isinstance(one, _Frame)]
    while left:
        one = left.pop()
        yield one
        left += [inner for part in one.parts for inner in part if isinstance(inner, _Frame)]
