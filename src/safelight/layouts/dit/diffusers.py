"""DiT in diffusers' folders: ``DiTTransformer2DModel``.

The embedders of time and class stand in every block, and each block uses its own. In DiT's own
weights, converted, they are copies of one, and are read as one; where they were trained there they
differ, which is refused unless ``embedders`` is said to be ``each``. That class also spaces the
frequencies of time otherwise than DiT (its last is 1/10000), and pictures differ much by it. A
folder is read as diffusers runs it, unless ``embedders`` is said to be ``published``. What
diffusers would not do is written with these words, which it does not know and leaves alone.
"""

from collections.abc import Mapping
from typing import Any

from safelight.denoisers.plain_dit.config import Config
from safelight.layouts.config_values import alone
from safelight.layouts.dit.mapping import KeyNames, layout
from safelight.types.shapes import Shapes


def more(shapes: Shapes, declared: Mapping[str, Any]) -> Mapping[str, Any]:
    """The positions are not stored, and the arithmetic is the folder's."""
    return {
        "side": alone(declared, "sample_size", 32) // shapes[KEY_NAMES.weight("patches")][2],
        "embedders": declared.get("embedders", "inclusive"),
        "mlp_eps": declared.get("norm_eps", 1e-5),
    }


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    return {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.channels,
        "out_channels": config.channels * (1 if config.variance == "none" else 2),
        "num_layers": config.depth,
        "attention_bias": True,
        "sample_size": config.side * config.patch,
        "patch_size": config.patch,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": config.classes,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": config.mlp_eps,
        **({} if config.embedders == "inclusive" else {"embedders": config.embedders}),
        **({"prediction": "flow"} if config.to_clean else {}),
    }


KEY_NAMES = KeyNames(
    name="diffusers",
    table="",
    whole={
        "patches": "pos_embed.proj",
        "final.linear": "proj_out_2",
        "final.modulation.linear": "proj_out_1",
    },
    embedders={
        "time.first": "transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_1",
        "time.second": "transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_2",
        "classes": "transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table",
    },
    block="transformer_blocks.{i}",
    layers={
        "modulation.linear": ("norm1.linear",),
        "attention.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
        "attention.out": ("attn1.to_out.0",),
        "mlp.0": ("ff.net.0.proj",),
        "mlp.2": ("ff.net.2",),
    },
)
LAYOUTS = (layout(KEY_NAMES, more, describe),)
