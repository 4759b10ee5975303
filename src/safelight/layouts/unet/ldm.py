"""U-Nets as latent diffusion wrote them (CompVis/latent-diffusion; Stable Diffusion 1 and 2, SDXL
and its refiner): the names of ``model.diffusion_model.``, or, without their dots, of
``model_ema.``."""

from safelight.denoisers.unet.config import Config
from safelight.layouts.key_mapping import Layout
from safelight.layouts.unet.mapping import KeyNames, infer, table
from safelight.types.shapes import Shapes

KEY_NAMES = KeyNames(
    enter="input_blocks.0.0",
    time=("time_embed.0", "time_embed.2"),
    vector=("label_emb.0.0", "label_emb.0.2"),
    classes="label_emb",
    guidance="time_embed.cond_proj",
    norm="out.0",
    leave="out.2",
    down="input_blocks.{n}.0",
    down_attention="input_blocks.{n}.1",
    smaller="input_blocks.{n}.0",
    up="output_blocks.{n}.0",
    up_attention="output_blocks.{n}.1",
    larger="output_blocks.{n}.{last}",
    middle=("middle_block.0", "middle_block.1", "middle_block.2"),
    residual=(
        "in_layers.0",
        "in_layers.2",
        "emb_layers.1",
        "out_layers.0",
        "out_layers.3",
        "skip_connection",
    ),
    resize=("op", "conv"),
    plain=("norm", "proj_out"),
    qkv=("qkv",),
)


def recognises(shapes: Shapes) -> bool:
    """Whether these are the bare names of a U-Net."""
    return {"input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"} <= shapes.keys()


LAYOUTS = (
    Layout(
        "ldm",
        "denoiser",
        recognises,
        lambda shapes, declared: infer(KEY_NAMES, shapes, declared),
        lambda config: table(KEY_NAMES, config),
        example=Config(),
    ),
)
