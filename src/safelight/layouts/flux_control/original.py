"""ControlNets of FLUX.1 in single files by the names of FLUX itself, as x-labs published theirs
(XLabs-AI/x-flux)."""

from safelight.denoisers.control.flux.config import NETWORK, Config
from safelight.layouts.flux import original as flux
from safelight.layouts.flux.mapping import KeyNames
from safelight.layouts.flux_control.mapping import infer, recognises, table
from safelight.layouts.key_mapping import Layout

KEY_NAMES = KeyNames("original", 1, flux.LAYERS, "scale")
SIGHT = ("input_hint_block.0", "input_hint_block.{after}", "input_hint_block.{after}")
NAMES = ("pos_embed_input", SIGHT)

LAYOUTS = (
    Layout(
        "original",
        "control",
        lambda shapes: recognises(KEY_NAMES, NAMES, shapes),
        lambda shapes, declared: infer(KEY_NAMES, NAMES, shapes, declared),
        lambda config: table(KEY_NAMES, NAMES, config),
        example=Config(NETWORK, hints=(16, 16, 16, 16)),
    ),
)
