"""Branches that control U-Nets in other layouts."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from safelight.denoisers.control.unet.config import Config
from safelight.layouts.key_mapping import KeyMapping, KeyRule, layer
from safelight.layouts.unet.mapping import KeyNames, encoder, infer
from safelight.types.shapes import Shapes


def table(
    key_names: KeyNames, ends: tuple[str, str], hints: tuple[str, str, str], config: Config
) -> KeyMapping:
    """The rules of a ControlNet.

    ``ends``: the convolutions behind each part of the way down (``{n}``) and the middle;
    ``hints``: the picture's convolutions, the first, those between (``{n}`` from 0, ``{after}``
    their place after the first) and the last.
    """
    rules: list[KeyRule] = encoder(key_names, config.network)
    levels = config.network.levels
    for number in range(1 + config.network.blocks * len(levels) + len(levels) - 1):
        rules += layer(f"zeros.{number}", ends[0].format(n=number))
    rules += layer("zero", ends[1])
    return KeyMapping((*rules, *hint_encoder("hint", hints, len(config.hints))))


def hint_encoder(ours: str, hints: tuple[str, str, str], count: int) -> list[KeyRule]:
    """The rules of the convolutions that look at a picture at ``count`` sizes."""
    between = 2 * (count - 1)
    rules = [*layer(f"{ours}.0", hints[0])]
    rules += layer(f"{ours}.{2 * between + 2}", hints[2].format(after=2 * between + 2))
    for number in range(between):
        rules += layer(f"{ours}.{2 * number + 2}", hints[1].format(n=number, after=2 * number + 2))
    return rules


def inferred(
    key_names: KeyNames, hints: tuple[str, str, str], shapes: Shapes, declared: Mapping[str, Any]
) -> Config:
    """Our configuration of a ControlNet's names and shapes."""
    colours = shapes[f"{hints[0]}.weight"][1]
    return Config(
        infer(key_names, shapes, declared), hint_channels=colours, hints=looked(hints, shapes)
    )


def looked(hints: tuple[str, str, str], shapes: Shapes) -> tuple[int, ...]:
    """The widths of the convolutions that look at a picture; none if there are none."""
    names = [
        f"{hints[1].format(n=number, after=2 * number + 2)}.weight"
        for number in range(1, len(shapes), 2)
    ]
    found = takewhile(shapes.__contains__, (f"{hints[0]}.weight", *names))
    return tuple(shapes[name][0] for name in found)
