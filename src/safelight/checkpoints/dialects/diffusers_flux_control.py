"""ControlNets of FLUX.1 in diffusers' folders: ``FluxControlNetModel``."""

from collections.abc import Mapping
from typing import Any

from safelight.checkpoints.dialects import diffusers_flux
from safelight.checkpoints.table import Dialect
from safelight.checkpoints.walks.flux_controls import infer, recognises, table
from safelight.checkpoints.walks.fluxes import Words
from safelight.denoisers.control.flux import Config

WORDS = Words("diffusers", 1, diffusers_flux.FIRST, "weight")
SIGHT = ("input_hint_block.conv_in", "input_hint_block.blocks.{n}", "input_hint_block.conv_out")
NAMES = ("controlnet_x_embedder", SIGHT)


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    common = {name: one for name, one in diffusers_flux.describe(config.network).items() if name != "out_channels"}
    return {
        **common,
        "_class_name": "FluxControlNetModel",
        "patch_size": config.network.patch if config.hints else 1,
        "num_mode": config.modes or None,
        "conditioning_embedding_channels": config.network.channels if config.hints else None,
    }


DIALECTS = (
    Dialect(
        "diffusers",
        "control",
        lambda shapes: recognises(WORDS, NAMES, shapes),
        lambda shapes, said: infer(WORDS, NAMES, shapes, said),
        lambda config: table(WORDS, NAMES, config),
        describe,
        Config(),
    ),
)
