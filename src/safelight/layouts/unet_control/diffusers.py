"""ControlNet in diffusers' folders: ``ControlNetModel``."""

from collections.abc import Mapping
from typing import Any

from safelight.denoisers.control.unet.config import Config
from safelight.layouts.key_mapping import Layout
from safelight.layouts.unet.diffusers import KEY_NAMES, ONLY, read_config, require, shape
from safelight.layouts.unet_control.mapping import inferred, table
from safelight.types.shapes import Shapes

ENDS = ("controlnet_down_blocks.{n}", "controlnet_mid_block")
HINTS = (
    "controlnet_cond_embedding.conv_in",
    "controlnet_cond_embedding.blocks.{n}",
    "controlnet_cond_embedding.conv_out",
)
ALSO = {"controlnet_conditioning_channel_order": ("rgb",), "global_pool_conditions": (False,)}


def config(shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """Our configuration, from a file and, as far as there is one, its config.json."""
    require(declared, {**ONLY, **ALSO})
    return inferred(KEY_NAMES, HINTS, shapes, read_config(declared))


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    common = {
        name: value
        for name, value in shape(config.network).items()
        if name != "mid_block_scale_factor"
    }
    only = [one.text_only for one in config.network.levels]
    return {
        "_class_name": "ControlNetModel",
        **common,
        "only_cross_attention": only,
        "conditioning_channels": config.hint_channels,
        "conditioning_embedding_out_channels": list(config.hints),
        "controlnet_conditioning_channel_order": "rgb",
        "num_class_embeds": config.network.classes or None,
    }


def recognises(shapes: Shapes) -> bool:
    """Whether these are the names of a ControlNet."""
    return {
        "conv_in.weight",
        "controlnet_mid_block.weight",
        "controlnet_cond_embedding.conv_in.weight",
    } <= shapes.keys()


LAYOUTS = (
    Layout(
        "diffusers",
        "control",
        recognises,
        config,
        lambda config: table(KEY_NAMES, ENDS, HINTS, config),
        describe,
        Config(),
    ),
)
