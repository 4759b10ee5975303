"""The transformers of Stable Diffusion 3 and 3.5 in diffusers' folders:
``SD3Transformer2DModel``."""

from collections.abc import Mapping
from typing import Any

from safelight.denoisers.mmdit.config import Config
from safelight.layouts.mmdit.mapping import KeyNames, layout


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": config.patch,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "num_layers": config.depth,
        "attention_head_dim": config.width // config.heads,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.text_width,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.vector_width,
        "pos_embed_max_size": config.side,
        "dual_attention_layers": list(config.dual),
        "qk_norm": "rms_norm" if config.qk_norm else None,
    }


KEY_NAMES = KeyNames(
    name="diffusers",
    table="pos_embed.pos_embed",
    whole={
        "patches": ("pos_embed.proj",),
        "time.first": ("time_text_embed.timestep_embedder.linear_1",),
        "time.second": ("time_text_embed.timestep_embedder.linear_2",),
        "vector.0": ("time_text_embed.text_embedder.linear_1",),
        "vector.2": ("time_text_embed.text_embedder.linear_2",),
        "text": ("context_embedder",),
        "final.linear": ("proj_out",),
        "final.modulation.linear": ("norm_out.linear",),
    },
    block="transformer_blocks.{i}",
    layers={
        "patches.modulation.linear": ("norm1.linear",),
        "patches.attention.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "patches.attention.q_norm": ("attn.norm_q",),
        "patches.attention.k_norm": ("attn.norm_k",),
        "patches.attention.out": ("attn.to_out.0",),
        "patches.mlp.0": ("ff.net.0.proj",),
        "patches.mlp.2": ("ff.net.2",),
        "text.modulation.linear": ("norm1_context.linear",),
        "text.attention.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "text.attention.q_norm": ("attn.norm_added_q",),
        "text.attention.k_norm": ("attn.norm_added_k",),
        "text.attention.out": ("attn.to_add_out",),
        "text.mlp.0": ("ff_context.net.0.proj",),
        "text.mlp.2": ("ff_context.net.2",),
        "dual.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
        "dual.q_norm": ("attn2.norm_q",),
        "dual.k_norm": ("attn2.norm_k",),
        "dual.out": ("attn2.to_out.0",),
    },
    swapped=True,
    foreign=r"controlnet_blocks\.",
)
LAYOUTS = (layout(KEY_NAMES, describe),)
