"""ControlNet as its authors wrote it (lllyasviel/ControlNet): the names of ``control_model.``."""

from safelight.checkpoints.dialects.ldm_unet import WORDS
from safelight.checkpoints.table import Dialect, Shapes
from safelight.checkpoints.walks.controls import inferred, table
from safelight.denoisers.control.unet import Config

ENDS = ("zero_convs.{n}.0", "middle_block_out.0")
HINTS = ("input_hint_block.0", "input_hint_block.{after}", "input_hint_block.{after}")


def recognises(shapes: Shapes) -> bool:
    """Whether these are the bare names of a ControlNet."""
    return {"input_blocks.0.0.weight", "zero_convs.0.0.weight", "input_hint_block.0.weight"} <= shapes.keys()


DIALECTS = (
    Dialect(
        "ldm",
        "control",
        recognises,
        lambda shapes, said: inferred(WORDS, HINTS, shapes, said),
        lambda config: table(WORDS, ENDS, HINTS, config),
        example=Config(),
    ),
)
