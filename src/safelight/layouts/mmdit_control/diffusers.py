"""ControlNets of Stable Diffusion 3 and 3.5 in diffusers' folders: ``SD3ControlNetModel``."""

from collections.abc import Mapping
from typing import Any

from safelight.denoisers.control.mmdit.config import Config
from safelight.layouts.key_mapping import Layout
from safelight.layouts.mmdit import diffusers as diffusers_mmdit
from safelight.layouts.mmdit_control.mapping import HINT, ZEROS, infer, table
from safelight.types.shapes import Shapes

KEY_NAMES = diffusers_mmdit.KEY_NAMES


def recognises(shapes: Shapes) -> bool:
    """Whether these are the names of such a ControlNet."""
    return {
        f"{HINT}.weight",
        f"{ZEROS}.0.weight",
        "transformer_blocks.0.norm1.linear.weight",
    } <= shapes.keys()


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    return {
        **diffusers_mmdit.describe(config.network),
        "_class_name": "SD3ControlNetModel",
        "joint_attention_dim": config.network.text_width if config.words else None,
        "extra_conditioning_channels": int(config.mask),
        "use_pos_embed": config.enters,
        "pos_embed_type": "sincos" if config.enters else None,
        "force_zeros_for_pooled_projection": not config.pooled,
    }


LAYOUTS = (
    Layout(
        "diffusers",
        "control",
        recognises,
        lambda shapes, declared: infer(KEY_NAMES, shapes, declared),
        lambda config: table(KEY_NAMES, config),
        describe,
        Config(),
    ),
)
