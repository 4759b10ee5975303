"""The prompt syntax of AUTOMATIC1111's web UI, parsed in time linear in the length of the text.

Weights: ``(x)`` multiplies by 1.1, ``[x]`` divides by 1.1, ``(x:1.3)`` multiplies by 1.3, ``\\(``
is a literal bracket. A bracket that is never closed reaches to the end. ``BREAK`` between spaces
begins a new section.

Schedules, by sampling step: ``[from:to:0.5]`` changes after half of the steps (rounded down),
``[to:10]`` adds after ten steps, ``[from::0.5]`` removes, ``[a|b]`` alternates.

Composition: ``a AND b :0.5`` are two prompts, each with a weight.
"""

import re
from itertools import pairwise
from typing import NamedTuple

EMPHASES = ("none", "mean", "empty")
"""What brackets do: nothing, or weigh tokens, in one of two ways (see ``docs/prompts.md``)."""

WeightedText = tuple[str, float]
"""A text and its weight."""

MAX_WEIGHT = 100.0  # weights are clamped, so that a thousand brackets do not overflow
_TOKEN = re.compile(
    r"\\[()\[\]\\]|\\|[(\[\])]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|:|\bBREAK\b"
    r"|(?:(?!\bBREAK\b)[^\\()\[\]:])+"
)
_SCHEDULE_TOKEN = re.compile(r"\\.|\\|[()\[\]:|]|[^\\()\[\]:|]+", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")


def parse_weights(text: str) -> list[list[WeightedText]]:
    """The sections that ``BREAK`` separates, each as texts with their weights.

    Neighbouring texts of equal weight are merged.
    """
    tokens = [(match[0], match[1]) for match in _TOKEN.finditer(text)]
    factors = _bracket_factors(tokens)
    sections: list[list[tuple[list[str], float]]] = [[]]
    running: dict[str, list[float]] = {"(": [1.0], "[": [1.0]}
    for index, (token, _) in enumerate(tokens):
        if token == "BREAK":
            sections.append([])
        elif index not in factors:
            weight = _clamp(running["("][-1] * running["["][-1])
            if not sections[-1] or sections[-1][-1][1] != weight:
                sections[-1].append(([], weight))
            escaped = len(token) == 2 and token[0] == "\\"
            sections[-1][-1][0].append(token[1:] if escaped else token)
        elif (factor := factors[index]) is not None:
            running[token].append(_clamp(running[token][-1] * factor))
        else:
            running["[" if token == "]" else "("].pop()
    return [_weighted_texts(section, len(sections) > 1) for section in sections]


def _weighted_texts(section: list[tuple[list[str], float]], strip: bool) -> list[WeightedText]:
    """The texts of a section; ``strip`` removes the spaces next to BREAK."""
    texts = [("".join(parts), weight) for parts, weight in section]
    if strip and texts:
        texts[0] = (texts[0][0].lstrip(), texts[0][1])
        texts[-1] = (texts[-1][0].rstrip(), texts[-1][1])
    return [item for item in texts if item[0]] or [("", 1.0)]


def _bracket_factors(tokens: list[tuple[str, str | None]]) -> dict[int, float | None]:
    """By index of each matched bracket: the factor of an opening one, None for a closing one."""
    defaults = {"(": 1.1, "[": 1 / 1.1}
    open_brackets: dict[str, list[int]] = {"(": [], "[": []}
    factors: dict[int, float | None] = {}
    for index, (token, number) in enumerate(tokens):
        if token in defaults:
            open_brackets[token].append(index)
            factors[index] = defaults[token]
        elif token == "]" or (token[-1] == ")" and token[0] != "\\"):
            opening = "[" if token == "]" else "("
            if open_brackets[opening]:
                factors[index] = None
                factors[open_brackets[opening].pop()] = (
                    defaults[opening] if number is None else float(number)
                )
    return factors


def _clamp(weight: float) -> float:
    return max(-MAX_WEIGHT, min(MAX_WEIGHT, weight))


def split_composition(text: str) -> list[WeightedText]:
    """The prompts that ``AND`` separates, each with the weight after its last colon (default 1).

    A text without ``AND`` is returned unchanged, with weight 1.
    """
    parts = re.split(r"\bAND\b", text)
    return [_text_and_weight(part) for part in parts] if len(parts) > 1 else [(text, 1.0)]


def _text_and_weight(part: str) -> WeightedText:
    before, colon, after = part.rpartition(":")
    number = _NUMBER.fullmatch(after) if colon else None
    return (before.strip(), float(number[1])) if number else (part.strip(), 1.0)


def is_scheduled(text: str) -> bool:
    """Whether the text differs between steps."""
    return _may_be_scheduled(text) and bool(_schedules(_SCHEDULE_TOKEN.findall(text)))


def text_at(text: str, step: int, steps: int) -> str:
    """The text in effect at ``step`` (from 0) of ``steps``; weights in it stay as written."""
    if not _may_be_scheduled(text):
        return text
    tokens = _SCHEDULE_TOKEN.findall(text)
    schedules = _schedules(tokens)
    output: list[str] = []
    ranges = [(0, len(tokens))]  # still to be read, the next one last
    while ranges:
        start, end = ranges.pop()
        begin = next((index for index in range(start, end) if index in schedules), end)
        output += tokens[start:begin]
        if begin < end:
            schedule = schedules[begin]
            ranges += [(schedule.end + 1, end), schedule.active_range(begin, step, steps)]
    return "".join(output)


def _may_be_scheduled(text: str) -> bool:
    return "]" in text and (":" in text or "|" in text)


class _Schedule(NamedTuple):
    """A bracket whose content depends on the step.

    ``when`` is the step or fraction at which it changes, or ``|`` if it alternates;
    ``separators`` are the indices of its colons or bars, ``end`` that of its closing bracket.
    """

    when: str
    separators: list[int]
    end: int

    def active_range(self, begin: int, step: int, steps: int) -> tuple[int, int]:
        """The range of tokens that is in effect at ``step``."""
        borders = [begin, *self.separators, self.end]
        parts = [(before + 1, after) for before, after in pairwise(borders)]
        if self.when == "|":
            return parts[step % len(parts)]
        change = int(self.when) if "." not in self.when else int(float(self.when) * steps)
        before, after = (parts[0], parts[1]) if len(parts) == 3 else ((begin, begin), parts[0])
        return before if step < change else after


def _schedules(tokens: list[str]) -> dict[int, _Schedule]:
    """All schedules by the index of their opening bracket; unmatched brackets are literal."""
    schedules: dict[int, _Schedule] = {}
    separators: dict[int, list[int]] = {}
    open_brackets: list[int] = []
    open_squares = 0
    for index, token in enumerate(tokens):
        if token == "(" or token == "[":
            open_brackets.append(index)
            open_squares += token == "["
        elif not open_brackets:
            continue
        elif token == ")":
            if tokens[open_brackets[-1]] == "(":
                open_brackets.pop()
        elif token == "]" and open_squares:
            while tokens[begin := open_brackets.pop()] == "(":
                pass
            open_squares -= 1
            if begin in separators and (when := _when(tokens, separators[begin], index)):
                schedules[begin] = _Schedule(when, separators[begin], index)
        elif (token == ":" or token == "|") and tokens[open_brackets[-1]] == "[":
            separators.setdefault(open_brackets[-1], []).append(index)
    return schedules


def _when(tokens: list[str], separators: list[int], end: int) -> str:
    """When a bracket with these separators changes; empty if it is no schedule."""
    kinds = [tokens[index] for index in separators]
    if ":" not in kinds:
        return "|"
    number = _NUMBER.fullmatch(tokens[end - 1]) if end - separators[-1] == 2 else None
    return number[1] if number and kinds in ([":"], [":", ":"]) else ""
