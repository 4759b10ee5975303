"""ControlNets of FLUX.1 in single files by the names of FLUX itself, as x-labs published theirs (XLabs-AI/x-flux)."""

from safelight.checkpoints.dialects import flux
from safelight.checkpoints.table import Dialect
from safelight.checkpoints.walks.flux_controls import infer, recognises, table
from safelight.checkpoints.walks.fluxes import Words
from safelight.denoisers.control.flux import NETWORK, Config

WORDS = Words("original", 1, flux.LAYERS, "scale")
SIGHT = ("input_hint_block.0", "input_hint_block.{after}", "input_hint_block.{after}")
NAMES = ("pos_embed_input", SIGHT)

DIALECTS = (
    Dialect(
        "original",
        "control",
        lambda shapes: recognises(WORDS, NAMES, shapes),
        lambda shapes, said: infer(WORDS, NAMES, shapes, said),
        lambda config: table(WORDS, NAMES, config),
        example=Config(NETWORK, hints=(16, 16, 16, 16)),
    ),
)
