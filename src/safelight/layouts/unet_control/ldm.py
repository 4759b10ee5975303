"""ControlNet as its authors wrote it (lllyasviel/ControlNet): the names of ``control_model.``."""

from safelight.denoisers.control.unet.config import Config
from safelight.layouts.key_mapping import Layout
from safelight.layouts.unet.ldm import KEY_NAMES
from safelight.layouts.unet_control.mapping import inferred, table
from safelight.types.shapes import Shapes

ENDS = ("zero_convs.{n}.0", "middle_block_out.0")
HINTS = ("input_hint_block.0", "input_hint_block.{after}", "input_hint_block.{after}")


def recognises(shapes: Shapes) -> bool:
    """Whether these are the bare names of a ControlNet."""
    return {
        "input_blocks.0.0.weight",
        "zero_convs.0.0.weight",
        "input_hint_block.0.weight",
    } <= shapes.keys()


LAYOUTS = (
    Layout(
        "ldm",
        "control",
        recognises,
        lambda shapes, declared: inferred(KEY_NAMES, HINTS, shapes, declared),
        lambda config: table(KEY_NAMES, ENDS, HINTS, config),
        example=Config(),
    ),
)
