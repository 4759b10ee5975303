"""The prompt syntax applied to prompts. It holds where ``given["emphasis"]`` is not ``none``.

The pipeline calls these functions for every model, so that conditioners only read the resulting
texts; weights alone are left to conditioners, which scale the states of their tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

from safelight.errors import unknown
from safelight.prompting.syntax import (
    EMPHASES,
    WeightedText,
    is_scheduled,
    parse_weights,
    split_composition,
    text_at,
)
from safelight.types.networks import Prompt

MAX_LENGTH = 100_000  # characters of a text in which brackets are parsed


def emphasis(prompt: Prompt) -> str:
    """What brackets do in this prompt, one of ``EMPHASES``; BadInput for another value."""
    value = prompt.given.get("emphasis", "none")
    if value not in EMPHASES:
        raise unknown("emphasis", value, EMPHASES)
    return str(value)


def weighted_sections(prompt: Prompt) -> list[list[WeightedText]]:
    """The prompt's text as sections of weighted texts; of a schedule, what holds at first."""
    if emphasis(prompt) == "none":
        return [[(prompt.text, 1.0)]]
    return parse_weights(text_at(prompt.text[:MAX_LENGTH], 0, 1000))


def beyond_max_length(prompt: Prompt) -> str:
    """The end of the text that is not parsed because the text is too long."""
    return "" if emphasis(prompt) == "none" else prompt.text[MAX_LENGTH:]


def prompt_at(prompt: Prompt, step: int, steps: int) -> Prompt:
    """The prompt in effect at ``step`` (from 0) of ``steps``; the same object without schedules."""
    if emphasis(prompt) == "none" or not is_scheduled(prompt.text[:MAX_LENGTH]):
        return prompt
    return replace(prompt, text=text_at(prompt.text[:MAX_LENGTH], step, steps))


def split_prompt(prompt: Prompt) -> Sequence[tuple[Prompt, float]]:
    """The prompts that ``AND`` separates, with their weights."""
    if emphasis(prompt) == "none":
        return [(prompt, 1.0)]
    return [(replace(prompt, text=text), weight) for text, weight in split_composition(prompt.text)]
