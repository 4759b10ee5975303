"""ControlNets of FLUX.1 in diffusers' folders: ``FluxControlNetModel``."""

from collections.abc import Mapping
from typing import Any

from safelight.denoisers.control.flux.config import Config
from safelight.layouts.flux import diffusers as diffusers_flux
from safelight.layouts.flux.mapping import KeyNames
from safelight.layouts.flux_control.mapping import infer, recognises, table
from safelight.layouts.key_mapping import Layout

KEY_NAMES = KeyNames("diffusers", 1, diffusers_flux.FIRST, "weight")
SIGHT = ("input_hint_block.conv_in", "input_hint_block.blocks.{n}", "input_hint_block.conv_out")
NAMES = ("controlnet_x_embedder", SIGHT)


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    common = {
        name: one
        for name, one in diffusers_flux.describe(config.network).items()
        if name != "out_channels"
    }
    return {
        **common,
        "_class_name": "FluxControlNetModel",
        "patch_size": config.network.patch if config.hints else 1,
        "num_mode": config.modes or None,
        "conditioning_embedding_channels": config.network.channels if config.hints else None,
    }


LAYOUTS = (
    Layout(
        "diffusers",
        "control",
        lambda shapes: recognises(KEY_NAMES, NAMES, shapes),
        lambda shapes, declared: infer(KEY_NAMES, NAMES, shapes, declared),
        lambda config: table(KEY_NAMES, NAMES, config),
        describe,
        Config(),
    ),
)
