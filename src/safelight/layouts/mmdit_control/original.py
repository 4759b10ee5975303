"""ControlNets of Stable Diffusion 3.5 large in single files, as Stability AI published them
(Stability-AI/sd3.5)."""

from safelight.denoisers.control.mmdit.config import Config
from safelight.layouts.key_mapping import Layout
from safelight.layouts.mmdit import diffusers as diffusers_mmdit
from safelight.layouts.mmdit.mapping import KeyNames
from safelight.layouts.mmdit_control.mapping import HINT, ZEROS, infer, table
from safelight.types.shapes import Shapes

KEY_NAMES = KeyNames(
    name="mmdit",
    table="pos_embed.pos_embed",
    whole=diffusers_mmdit.KEY_NAMES.whole,
    block="transformer_blocks.{i}",
    layers={
        "patches.modulation.linear": ("adaLN_modulation.1",),
        "patches.attention.qkv": ("attn.qkv",),
        "patches.attention.q_norm": ("attn.ln_q",),
        "patches.attention.k_norm": ("attn.ln_k",),
        "patches.attention.out": ("attn.proj",),
        "patches.mlp.0": ("mlp.fc1",),
        "patches.mlp.2": ("mlp.fc2",),
        "dual.qkv": ("attn2.qkv",),
    },
    swapped=True,
)


def recognises(shapes: Shapes) -> bool:
    """Whether these are the names of such a ControlNet."""
    return {
        f"{HINT}.weight",
        f"{ZEROS}.0.weight",
        "transformer_blocks.0.adaLN_modulation.1.weight",
    } <= shapes.keys()


LAYOUTS = (
    Layout(
        "mmdit",
        "control",
        recognises,
        lambda shapes, declared: infer(KEY_NAMES, shapes, declared),
        lambda config: table(KEY_NAMES, config),
        example=Config(words=False, enters=False, typed=True),
    ),
)
