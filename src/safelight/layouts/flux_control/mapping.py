"""Branches that control ``denoisers.flux`` in other layouts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from safelight.denoisers.control.flux.config import Config
from safelight.layouts.flux import mapping as fluxes
from safelight.layouts.flux.mapping import KeyNames
from safelight.layouts.key_mapping import KeyMapping, KeyRule, layer
from safelight.layouts.unet_control.mapping import hint_encoder, looked
from safelight.types.shapes import Shapes

ZEROS, SINGLE_ZEROS, MODE = (
    "controlnet_blocks",
    "controlnet_single_blocks",
    "controlnet_mode_embedder",
)
Names = tuple[str, tuple[str, str, str]]
"""The layer of what is seen, and the convolutions that see pixels: the first, those between and
the last."""


def table(key_names: KeyNames, names: Names, config: Config) -> KeyMapping:
    """The rules of a branch: those of a transformer without its end, and its own."""
    whole = fluxes.table(key_names, config.network).rules
    rules = [
        replace(rule, ours=f"network.{rule.ours}")
        for rule in whole
        if not rule.ours.startswith("final.")
    ]
    rules += layer("hint", names[0])
    ends = (
        ("zeros", ZEROS, config.network.double),
        ("single_zeros", SINGLE_ZEROS, config.network.single),
    )
    for ours, theirs, count in ends:
        for index in range(count):
            rules += layer(f"{ours}.{index}", f"{theirs}.{index}")
    rules += hint_encoder("sight", names[1], len(config.hints)) if config.hints else []
    return KeyMapping(
        (*rules, *([KeyRule("mode.weight", (f"{MODE}.weight",))] if config.modes else []))
    )


def infer(key_names: KeyNames, names: Names, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """Our configuration of a branch's names and shapes."""
    width, inputs = shapes[key_names.first("patches")]
    network = fluxes.infer(
        key_names, {key_names.first("final.linear"): (inputs, width), **shapes}, declared
    )
    modes = shapes.get(f"{MODE}.weight", (0,))[0]
    return Config(network, modes, looked(names[1], shapes))


def recognises(key_names: KeyNames, names: Names, shapes: Shapes) -> bool:
    """Whether these are the names of such a branch."""
    return {
        f"{names[0]}.weight",
        f"{ZEROS}.0.weight",
        key_names.first("patches"),
        key_names.first("text"),
    } <= shapes.keys()
