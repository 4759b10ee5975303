"""``denoisers.mmdit`` in other layouts: the names of each layout in a table, one mapping for
all."""

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
    KeyMapping,
    KeyRule,
    Layout,
    Patches,
    Swapped,
    TensorTransform,
    layer,
)
from safelight.types.shapes import Shapes

Names = Mapping[str, tuple[str, ...]]
"""Our layers and theirs, of which several are one of ours, in this order."""


@dataclass(frozen=True)
class KeyNames:
    """How a layout names the layers of the whole and of ``block`` {i}; where a layer has only a
    weight, see ``NORMS``.

    ``swapped``: whether the last modulation of a sequence has scale before shift, where ours has
    shift before scale.
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


def layout(
    key_names: KeyNames, describe: Callable[[Any], Mapping[str, Any]] | None = None
) -> Layout:
    """The layout of ``mmdit`` with these key names."""
    return Layout(
        key_names.name,
        "denoiser",
        lambda shapes: _fits(key_names, shapes),
        lambda shapes, declared: config(key_names, shapes, declared),
        lambda config: table(key_names, config),
        describe,
        Config(),
    )


def table(key_names: KeyNames, config: Config) -> KeyMapping:
    """The rules of a whole transformer."""
    rules = [KeyRule("positions.table", (key_names.table,))]
    for ours, theirs in key_names.whole.items():
        change: TensorTransform = Patches(config.patch) if ours == "patches" else SAME
        change = Swapped() if key_names.swapped and ours == "final.modulation.linear" else change
        rules += layer(ours, *theirs, change=change)
    for index in range(config.depth):
        last, path = index == config.depth - 1, key_names.block.format(i=index)
        for ours, theirs in key_names.layers.items():
            if not _has(config, index, ours):
                continue
            swapped = key_names.swapped and last and ours == "text.modulation.linear"
            rules += layer(
                f"blocks.{index}.{ours}",
                *(f"{path}.{one}" for one in theirs),
                bias=not ours.endswith(NORMS),
                change=Swapped() if swapped else SAME,
            )
    return KeyMapping(tuple(rules))


def config(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """What names and shapes tell. Without a norm of queries the heads are ``declared``, else 64
    channels wide."""
    width, channels, patch, _ = shapes[key_names.first("patches")]
    pattern = re.compile(re.escape(key_names.block).replace(r"\{i\}", r"(\d+)") + r"\.")
    depth = 1 + max(int(found[1]) for name in shapes if (found := pattern.match(name)))
    norm = shapes.get(key_names.first("patches.attention.q_norm"))
    heads = (
        width // norm[0]
        if norm
        else alone(declared, "heads", alone(declared, "num_attention_heads", width // 64))
    )
    if not heads:
        raise BadInput(
            f"a file does not tell the heads of a transformer of width {width}: say how many, as "
            "heads."
        )
    (dual, *_) = key_names.layers["dual.qkv"]
    return Config(
        channels=channels,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=shapes[key_names.first("patches.mlp.0")][0] / width,
        text_width=shapes[key_names.first("text")][1],
        vector_width=shapes[key_names.first("vector.0")][1],
        side=isqrt(shapes[key_names.table][1]),
        qk_norm=norm is not None,
        dual=tuple(
            i for i in range(depth) if f"{key_names.block.format(i=i)}.{dual}.weight" in shapes
        ),
    )


def _has(config: Config, index: int, layer: str) -> bool:
    """Whether block ``index`` has that layer: the text of the last one is only looked at."""
    silent = layer.startswith("text.mlp") or layer == "text.attention.out"
    return (
        (index in config.dual or not layer.startswith("dual"))
        and (config.qk_norm or not layer.endswith(NORMS))
        and (index < config.depth - 1 or not silent)
    )


def _fits(key_names: KeyNames, shapes: Shapes) -> bool:
    needed = {
        key_names.table,
        *map(
            key_names.first, ("patches", "vector.0", "text", "text.attention.qkv", "patches.mlp.0")
        ),
    }
    return needed <= shapes.keys() and not any(re.match(key_names.foreign, name) for name in shapes)
