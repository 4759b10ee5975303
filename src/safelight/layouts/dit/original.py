"""DiT and SiT as they were published (facebookresearch/DiT, willisma/SiT): a bare state dict, or
beside it ``ema``."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from safelight.layouts.dit.mapping import KeyNames, layout
from safelight.types.shapes import Shapes


def more(shapes: Shapes, declared: Mapping[str, Any]) -> Mapping[str, Any]:
    """The positions are stored."""
    return {"side": isqrt(shapes[KEY_NAMES.table][1])}


KEY_NAMES = KeyNames(
    name="dit",
    table="pos_embed",
    whole={
        "patches": "x_embedder.proj",
        "final.linear": "final_layer.linear",
        "final.modulation.linear": "final_layer.adaLN_modulation.1",
    },
    embedders={
        "time.first": "t_embedder.mlp.0",
        "time.second": "t_embedder.mlp.2",
        "classes": "y_embedder.embedding_table",
    },
    block="blocks.{i}",
    layers={
        "modulation.linear": ("adaLN_modulation.1",),
        "attention.qkv": ("attn.qkv",),
        "attention.out": ("attn.proj",),
        "mlp.0": ("mlp.fc1",),
        "mlp.2": ("mlp.fc2",),
    },
)
LAYOUTS = (layout(KEY_NAMES, more),)
