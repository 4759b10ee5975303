"""Branches that control U-Nets in other layouts."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from safelight.checkpoints.table import Rule, Shapes, Table, layer
from safelight.checkpoints.walks.unets import Words, encoder, infer
from safelight.denoisers.control.unet import Config


def table(words: Words, ends: tuple[str, str], hints: tuple[str, str, str], config: Config) -> Table:
    """The rules of a ControlNet.

    ``ends``: the convolutions behind each part of the way down (``{n}``) and the middle; ``hints``: the picture's
    convolutions, the first, those between (``{n}`` from 0, ``{after}`` their place after the first) and the last.
    """
    rules: list[Rule] = encoder(words, config.network)
    levels = config.network.levels
    for number in range(1 + config.network.blocks * len(levels) + len(levels) - 1):
        rules += layer(f"zeros.{number}", ends[0].format(n=number))
    rules += layer("zero", ends[1])
    between = 2 * (len(config.hints) - 1)
    rules += [*layer("hint.0", hints[0]), *layer(f"hint.{2 * between + 2}", hints[2].format(after=2 * between + 2))]
    for number in range(between):
        rules += layer(f"hint.{2 * number + 2}", hints[1].format(n=number, after=2 * number + 2))
    return Table(tuple(rules))


def inferred(words: Words, hints: tuple[str, str, str], shapes: Shapes, said: Mapping[str, Any]) -> Config:
    """Our configuration of a ControlNet's names and shapes."""
    first = shapes[f"{hints[0]}.weight"]
    widths = [first[0]]
    for number in count(1, 2):
        name = f"{hints[1].format(n=number, after=2 * number + 2)}.weight"
        if name not in shapes:
            break
        widths.append(shapes[name][0])
    return Config(infer(words, shapes, said), hint_channels=first[1], hints=tuple(widths))
