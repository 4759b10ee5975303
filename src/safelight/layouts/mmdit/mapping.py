"""``denoisers.mmdit`` in other layouts: one table of words a layout, one walk over the shape."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from safelight.denoisers.mmdit.config import Config
from safelight.errors import BadInput
from safelight.layouts.config_values import alone
from safelight.layouts.key_mapping import (
    SAME,
    Change,
    Layout,
    Patches,
    Rule,
    Swapped,
    Table,
    layer,
)
from safelight.types.shapes import Shapes

Names = Mapping[str, tuple[str, ...]]
"""Our layers and theirs, of which several are one of ours, in this order."""


@dataclass(frozen=True)
class Words:
    """How a layout calls the layers of the whole and of ``block`` {i}; where a layer has only a weight, see ``NORMS``.

    ``swapped``: whether the last modulation of a sequence has scale before shift, where ours has shift before scale.
    """

    name: str
    table: str
    whole: Names
    block: str
    layers: Names
    swapped: bool
    foreign: str = r"(?!)"  # a name of another network that has the others as well

    def first(self, layer: str) -> str:
        """The weight of a layer of the whole, or of block 0, as a file names it."""
        inside = layer not in self.whole
        (path, *_) = self.layers[layer] if inside else self.whole[layer]
        return f"{self.block.format(i=0)}.{path}.weight" if inside else f"{path}.weight"


NORMS = ("q_norm", "k_norm")


def layout(words: Words, describe: Callable[[Any], Mapping[str, Any]] | None = None) -> Layout:
    """The dialect of ``mmdit`` in these words."""
    return Layout(
        words.name,
        "denoiser",
        lambda shapes: _fits(words, shapes),
        lambda shapes, said: config(words, shapes, said),
        lambda config: table(words, config),
        describe,
        Config(),
    )


def table(words: Words, config: Config) -> Table:
    """The rules of a whole transformer."""
    rules = [Rule("positions.table", (words.table,))]
    for ours, theirs in words.whole.items():
        change: Change = Patches(config.patch) if ours == "patches" else SAME
        change = Swapped() if words.swapped and ours == "final.modulation.linear" else change
        rules += layer(ours, *theirs, change=change)
    for index in range(config.depth):
        last, path = index == config.depth - 1, words.block.format(i=index)
        for ours, theirs in words.layers.items():
            if not _has(config, index, ours):
                continue
            swapped = words.swapped and last and ours == "text.modulation.linear"
            rules += layer(
                f"blocks.{index}.{ours}",
                *(f"{path}.{one}" for one in theirs),
                bias=not ours.endswith(NORMS),
                change=Swapped() if swapped else SAME,
            )
    return Table(tuple(rules))


def config(words: Words, shapes: Shapes, said: Mapping[str, Any]) -> Config:
    """What names and shapes tell. Without a norm of queries the heads are ``said``, else 64 channels wide."""
    width, channels, patch, _ = shapes[words.first("patches")]
    pattern = re.compile(re.escape(words.block).replace(r"\{i\}", r"(\d+)") + r"\.")
    depth = 1 + max(int(found[1]) for name in shapes if (found := pattern.match(name)))
    norm = shapes.get(words.first("patches.attention.q_norm"))
    heads = (
        width // norm[0]
        if norm
        else alone(said, "heads", alone(said, "num_attention_heads", width // 64))
    )
    if not heads:
        raise BadInput(
            f"a file does not tell the heads of a transformer of width {width}: say how many, as heads."
        )
    (dual, *_) = words.layers["dual.qkv"]
    return Config(
        channels=channels,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=shapes[words.first("patches.mlp.0")][0] / width,
        text_width=shapes[words.first("text")][1],
        vector_width=shapes[words.first("vector.0")][1],
        side=isqrt(shapes[words.table][1]),
        qk_norm=norm is not None,
        dual=tuple(i for i in range(depth) if f"{words.block.format(i=i)}.{dual}.weight" in shapes),
    )


def _has(config: Config, index: int, layer: str) -> bool:
    """Whether block ``index`` has that layer: the text of the last one is only looked at."""
    silent = layer.startswith("text.mlp") or layer == "text.attention.out"
    return (
        (index in config.dual or not layer.startswith("dual"))
        and (config.qk_norm or not layer.endswith(NORMS))
        and (index < config.depth - 1 or not silent)
    )


def _fits(words: Words, shapes: Shapes) -> bool:
    needed = {
        words.table,
        *map(words.first, ("patches", "vector.0", "text", "text.attention.qkv", "patches.mlp.0")),
    }
    return needed <= shapes.keys() and not any(re.match(words.foreign, name) for name in shapes)
