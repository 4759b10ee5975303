"""T2I-Adapters: as their authors wrote them (TencentARC/T2I-Adapter, those of Stable Diffusion 1),
and in diffusers' folders (``T2IAdapter``)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from safelight.denoisers.control.t2i.config import Config, widths
from safelight.errors import BadInput
from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, layer
from safelight.types.shapes import Shapes


@dataclass(frozen=True)
class KeyNames:
    """How a layout names the parts; ``{i}`` is a stage, ``{j}`` a block of it, ``{n}`` counts
    blocks of all stages."""

    name: str
    enter: str
    stage: str  # of a stage's own convolutions in a full adapter
    block: str  # in a full adapter
    light: str  # a block in a light one


PEER = KeyNames(
    "diffusers",
    enter="adapter.conv_in",
    stage="adapter.body.{i}",
    block="adapter.body.{i}.resnets.{j}",
    light="adapter.body.{i}.resnets.{j}",
)
OWN = KeyNames(
    "t2i", enter="conv_in", stage="body.{n}", block="body.{n}", light="body.{i}.body.{j}"
)


def table(key_names: KeyNames, config: Config) -> KeyMapping:
    """The rules of an adapter."""
    light, before = config.form == "light", config.widths[0]
    rules: list[KeyRule] = [] if light else layer("enter", key_names.enter)
    for i, width in enumerate(widths(config)):
        stage = (key_names.light.partition("{i}")[0] + "{i}" if light else key_names.stage).format(
            i=i, n=i * config.blocks
        )
        if light or before != width:
            rules += layer(f"stages.{i}.enter", f"{stage}.in_conv")
        for j in range(config.blocks):
            block = (key_names.light if light else key_names.block).format(
                i=i, j=j, n=i * config.blocks + j
            )
            for mine, theirs in (("conv1", "block1"), ("conv2", "block2")):
                rules += layer(f"stages.{i}.blocks.{j}.{mine}", f"{block}.{theirs}")
        if light:
            rules += layer(f"stages.{i}.leave", f"{stage}.out_conv")
        before = width
    return KeyMapping(tuple(rules))


def config(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """Our configuration of an adapter's names and shapes.

    ``downscale_factor`` and ``adapter_type`` tell an SDXL adapter, which looks at a picture in
    squares of 16, not 8; else squares of 16 where there are 768 numbers at the start.
    """
    light = f"{key_names.enter}.weight" not in shapes
    start = key_names.light.partition("{i}")[0] + "0.in_conv" if light else key_names.enter
    taken = shapes[f"{start}.weight"][1]
    factor = declared.get("downscale_factor", 16 if taken in (768, 256) else 8)
    path = key_names.light if light else key_names.block
    known = [shapes.get(f"{path.format(i=0, j=j, n=j)}.block1.weight", (0,))[0] for j in range(64)]
    blocks = next((j for j, width in enumerate(known) if width != known[0]), 64)
    if (
        "{j}" not in path
    ):  # blocks of all stages follow one another: a stage ends where the width changes
        changes = [n for n in range(1, 64) if f"{path.format(n=n)}.in_conv.weight" in shapes]
        blocks = changes[0] if changes else blocks
    stages = _stages(key_names, shapes, light, blocks)
    if taken % factor**2:
        raise BadInput(
            f"an adapter of {taken} numbers at the start does not see squares of {factor}: say "
            "which."
        )
    large = (
        declared.get("adapter_type", "full_adapter_xl" if factor == 16 else "full_adapter")
        == "full_adapter_xl"
    )
    form: Literal["light", "xl", "full"] = "light" if light else "xl" if large else "full"
    ahead = 10 if form == "xl" else 13
    return Config(taken // factor**2, stages[:-1] if light else stages, blocks, factor, form, ahead)


def _stages(key_names: KeyNames, shapes: Shapes, light: bool, blocks: int) -> tuple[int, ...]:
    """The width of each feature."""
    found = []
    for i in range(64):
        if light:
            name = key_names.light.partition("{i}")[0] + f"{i}.out_conv.weight"
        else:
            name = key_names.block.format(i=i, j=0, n=i * blocks) + ".block1.weight"
        if name not in shapes:
            break
        found.append(shapes[name][0])
    return tuple(found)


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    kind = {"full": "full_adapter", "light": "light_adapter", "xl": "full_adapter_xl"}[config.form]
    return {
        "_class_name": "T2IAdapter",
        "in_channels": config.channels,
        "channels": list(config.widths),
        "num_res_blocks": config.blocks,
        "downscale_factor": config.factor,
        "adapter_type": kind,
    }


def layout(key_names: KeyNames) -> Layout:
    """The layout with these key names."""
    pattern = re.compile(
        rf"{re.escape(key_names.enter.removesuffix('conv_in'))}body\.\d+\..*block1\.weight"
    )
    return Layout(
        key_names.name,
        "control",
        lambda shapes: any(pattern.fullmatch(name) for name in shapes),
        lambda shapes, declared: config(key_names, shapes, declared),
        lambda known: table(key_names, known),
        describe if key_names is PEER else None,
        Config(),
    )


LAYOUTS = (layout(OWN), layout(PEER))
