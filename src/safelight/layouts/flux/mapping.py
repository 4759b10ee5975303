"""The transformers of ``denoisers.flux`` in other layouts: a layout's names for each of our
layers, and one walk."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safelight.denoisers.flux import config as flux_config
from safelight.errors import BadInput
from safelight.layouts.key_mapping import SAME, KeyMapping, KeyRule, Layout, TensorTransform, layer
from safelight.types.shapes import Shapes

STREAM = ("modulation.linear", "qkv", "q_norm", "k_norm", "out", "enter", "leave")
SINGLE = ("modulation.linear", "enter", "q_norm", "k_norm", "leave")


@dataclass(frozen=True)
class KeyNames:
    """How a layout calls our layers: one name, or those of which ours is made; ``{i}`` is a
    block."""

    name: str
    generation: int
    layers: Mapping[str, Sequence[str]]
    scale: str  # what it calls the weight of a head's norm
    changes: Mapping[str, TensorTransform] = field(default_factory=dict)

    def first(self, ours: str, what: str = "weight") -> str:
        """The name of the first tensor of a layer, in the first block."""
        return f"{self.layers[ours][0].format(i=0)}.{what}"


def layout(
    first: KeyNames,
    second: KeyNames,
    describe: Callable[[flux_config.Config], Mapping[str, Any]] | None = None,
) -> Layout:
    """The layout of both generations, each with its key names."""
    return Layout(
        first.name,
        "denoiser",
        lambda shapes: _fits(first, shapes) or _fits(second, shapes),
        lambda shapes, declared: infer(first if _fits(first, shapes) else second, shapes, declared),
        lambda config: table(first if config.generation == 1 else second, config),
        describe,
        flux_config.Config(),
    )


def table(key_names: KeyNames, config: flux_config.Config) -> KeyMapping:
    """The rules of a whole transformer."""
    shared = ("shared_image.linear", "shared_text.linear", "shared_single.linear")
    single = ["patches", "text", "time.0", "time.2", "final.modulation.linear", "final.linear"]
    single += ["guidance.0", "guidance.2"] if config.guidance else []
    single += ["vector.0", "vector.2"] if config.vector_width else []
    single += shared if config.generation == 2 else []
    rules = [rule for one in single for rule in _rules(key_names, config, one, one, 0)]
    for kind, depth, parts in (
        (
            "double_blocks",
            config.double,
            [f"{stream}.{one}" for stream in ("image", "text") for one in STREAM],
        ),
        ("single_blocks", config.single, SINGLE),
    ):
        for i in range(depth):
            for part in parts:
                if config.generation == 1 or "modulation" not in part:
                    rules += _rules(key_names, config, f"{kind}.{i}.{part}", f"{kind}.{part}", i)
    return KeyMapping(tuple(rules))


def _rules(
    key_names: KeyNames, config: flux_config.Config, ours: str, key: str, block: int
) -> list[KeyRule]:
    """The rules of one of our layers, whose names stand under ``key``."""
    theirs = [one.format(i=block) for one in key_names.layers[key]]
    if key.endswith("_norm"):
        return [KeyRule(f"{ours}.weight", (f"{theirs[0]}.{key_names.scale}",))]
    rows = (*[config.width] * 3, config.hidden * config.generation) if len(theirs) == 4 else ()
    return layer(
        ours,
        *theirs,
        bias=config.generation == 1,
        change=key_names.changes.get(key, SAME),
        rows=rows,
    )


def infer(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> flux_config.Config:
    """What names and shapes tell, and ``axes``, which they do not: as ``declared``, else as FLUX's
    own, in proportion."""
    width, inputs = shapes[key_names.first("patches")]
    patch = 2 if key_names.generation == 1 else 1
    channels = shapes[key_names.first("final.linear")][0] // patch**2
    guidance, vector = (
        key_names.first("guidance.0"),
        key_names.first("vector.0") if "vector.0" in key_names.layers else "",
    )
    axes_declared = declared.get("axes_dims_rope") or declared.get("axes")
    head = shapes[key_names.first("double_blocks.image.q_norm", key_names.scale)][0]
    return flux_config.Config(
        channels=channels,
        extra_channels=inputs // patch**2 - channels,
        patch=patch,
        width=width,
        axes=_numbers(axes_declared, head) if axes_declared else usual(head, key_names),
        double=_count(shapes, key_names.layers["double_blocks.image.leave"][0]),
        single=_count(shapes, key_names.layers["single_blocks.leave"][0]),
        mlp_ratio=shapes[key_names.first("double_blocks.image.leave")][1] / width,
        text_width=shapes[key_names.first("text")][1],
        vector_width=shapes[vector][1] if vector in shapes else 0,
        guidance=guidance in shapes,
        generation=2 if key_names.generation == 2 else 1,
    )


def usual(head: int, key_names: KeyNames) -> tuple[int, ...]:
    """An eighth of a head's channels for the picture's number and the rest in halves; in
    generation 2 all alike."""
    if key_names.generation == 2:
        return (head // 4,) * 4
    number = next((n for n in range(2, head, 2) if 8 * n >= head and (head - n) % 4 == 0), 2)
    return (number, (head - number) // 2, (head - number) // 2)


def _numbers(axes_declared: Any, head: int) -> tuple[int, ...]:
    """The channels of each axis, as a list or as text."""
    try:
        axes = tuple(
            int(one)
            for one in (
                axes_declared.split(",") if isinstance(axes_declared, str) else axes_declared
            )
        )
    except (ValueError, TypeError):
        axes = ()
    if sum(axes) != head:
        raise BadInput(
            f"axes: wanted numbers of channels that make up the {head} of a head, as 16,56,56; got "
            f"{axes_declared}."
        )
    return axes


def _fits(key_names: KeyNames, shapes: Shapes) -> bool:
    modulation = (
        "double_blocks.image.modulation.linear"
        if key_names.generation == 1
        else "shared_image.linear"
    )
    return all(
        key_names.first(one) in shapes
        for one in ("patches", "final.linear", "double_blocks.image.leave", modulation)
    )


def _count(shapes: Shapes, name: str) -> int:
    pattern = re.compile(re.escape(name).replace(r"\{i\}", r"(\d+)") + r"\.weight")
    return 1 + max(
        (int(found[1]) for one in shapes if (found := pattern.fullmatch(one))), default=-1
    )
