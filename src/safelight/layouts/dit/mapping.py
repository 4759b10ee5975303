"""``denoisers.plain_dit`` in other layouts: the names of each layout in a table, one mapping for
all."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safelight.denoisers.plain_dit.config import Config
from safelight.errors import BadInput
from safelight.layouts.config_values import alone
from safelight.layouts.key_mapping import SAME, KeyMapping, KeyRule, Layout, Patches, layer
from safelight.types.shapes import Shapes


@dataclass(frozen=True)
class KeyNames:
    """How a layout names the layers of the whole, of the embedders and of ``block`` {i}.

    An embedder whose name has an {i} stands in every block, as copies of one or as its own.
    ``table`` is empty where the positions are not stored.
    """

    name: str
    table: str
    whole: Mapping[str, str]
    embedders: Mapping[str, str]
    block: str
    layers: Mapping[str, tuple[str, ...]]

    def weight(self, layer: str) -> str:
        """The weight of a layer, of block 0 if it is one of a block, as a file names it."""
        path = {**self.whole, **self.embedders}.get(
            layer
        ) or f"{self.block}.{self.layers[layer][0]}"
        return f"{path.format(i=0)}.weight"


def layout(
    key_names: KeyNames,
    more: Callable[[Shapes, Mapping[str, Any]], Mapping[str, Any]],
    describe: Callable[[Any], Mapping[str, Any]] | None = None,
) -> Layout:
    """The layout of ``plain_dit`` with these key names; ``more`` is what the layout tells in a way
    of its own."""
    return Layout(
        key_names.name,
        "denoiser",
        lambda shapes: _fits(key_names, shapes),
        lambda shapes, declared: Config(
            **_body(key_names, shapes, declared), **more(shapes, declared)
        ),
        lambda config: table(key_names, config),
        describe,
        Config(classes=1000, variance="learned"),
    )


def table(key_names: KeyNames, config: Config) -> KeyMapping:
    """The rules of a whole transformer; BadInput if the layout has one embedder and the network
    more."""
    rules = [KeyRule("positions.table", (key_names.table,))] if key_names.table else []
    for ours, path in key_names.whole.items():
        rules += layer(ours, path, change=Patches(config.patch) if ours == "patches" else SAME)
    paths = [key_names.block.format(i=index) for index in range(config.depth)]
    for index, path in enumerate(paths):
        for ours, several in key_names.layers.items():
            rules += layer(f"blocks.{index}.{ours}", *(f"{path}.{one}" for one in several))
    return KeyMapping((*rules, *_embedders(key_names, config)))


def _embedders(key_names: KeyNames, config: Config) -> list[KeyRule]:
    """The rules of the embedders: one, or copies of one, or one a block."""
    rules = []
    for ours, path in key_names.embedders.items():
        theirs = tuple(dict.fromkeys(path.format(i=index) for index in range(config.depth)))
        bias = ours != "classes"
        if not bias and not config.classes:
            continue
        if config.embedders != "each":
            rules += layer(f"embedders.0.{ours}", *theirs, bias=bias, copies="say embedders = each")
        elif len(theirs) == config.depth:
            rules += [
                r
                for i, one in enumerate(theirs)
                for r in layer(f"embedders.{i}.{ours}", one, bias=bias)
            ]
        else:
            raise BadInput(
                f"the layout {key_names.name} has one embedder for all blocks, not one each: take "
                "another."
            )
    return rules


def _body(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> dict[str, Any]:
    """What names and shapes tell in any layout. The heads are ``declared``, else those of the
    published sizes; so is the ``prediction``, for SiT's files look like DiT's: ``flow`` is SiT."""
    width, channels, patch, _ = shapes[key_names.weight("patches")]
    pattern = re.compile(re.escape(key_names.block).replace(r"\{i\}", r"(\d+)") + r"\.")
    heads = alone(
        declared,
        "heads",
        alone(declared, "num_attention_heads", 16 if width == 1152 else width // 64),
    )
    if not heads:
        raise BadInput(
            f"a file does not tell the heads of a transformer of width {width}: say how many, as "
            "heads."
        )
    doubled = shapes[key_names.weight("final.linear")][0] == 2 * channels * patch**2
    flow = declared.get("prediction") == "flow"
    rows, _ = shapes.get(key_names.weight("classes"), (1, width))
    return {
        "channels": channels,
        "patch": patch,
        "width": width,
        "depth": 1 + max(int(found[1]) for name in shapes if (found := pattern.match(name))),
        "heads": heads,
        "mlp_ratio": shapes[key_names.weight("mlp.0")][0] / width,
        "classes": rows - 1,
        "variance": ("ignored" if flow else "learned") if doubled else "none",
        "to_clean": flow,
    }


def _fits(key_names: KeyNames, shapes: Shapes) -> bool:
    needed = {
        key_names.weight(one)
        for one in ("patches", "time.first", "attention.qkv", "mlp.0", "final.modulation.linear")
    }
    return needed <= shapes.keys() and (not key_names.table or key_names.table in shapes)
