"""FLUX.1 and FLUX.2 in diffusers' folders: ``FluxTransformer2DModel`` and
``Flux2Transformer2DModel``."""

from collections.abc import Mapping
from typing import Any

from safelight.denoisers.flux import config as flux_config
from safelight.layouts.flux.mapping import KeyNames, layout
from safelight.layouts.key_mapping import Swapped

SEQUENCES = {  # of a double block: q, k, v, both norms, the way out, the MLP
    "image": ("to_q", "to_k", "to_v", "norm_q", "norm_k", "to_out.0", "ff"),
    "text": (
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "norm_added_q",
        "norm_added_k",
        "to_add_out",
        "ff_context",
    ),
}


def layers(embedders: str, enter: str, leave: str) -> dict[str, list[str]]:
    """What both generations name alike, and these three."""
    key_names = {
        "patches": ["x_embedder"],
        "text": ["context_embedder"],
        "final.modulation.linear": ["norm_out.linear"],
        "final.linear": ["proj_out"],
        "single_blocks.q_norm": ["single_transformer_blocks.{i}.attn.norm_q"],
        "single_blocks.k_norm": ["single_transformer_blocks.{i}.attn.norm_k"],
    }
    for ours, theirs in {"time": "timestep", "guidance": "guidance"}.items():
        for number, which in enumerate((0, 2), start=1):
            key_names[f"{ours}.{which}"] = [f"{embedders}.{theirs}_embedder.linear_{number}"]
    for ours, (q, k, v, q_norm, k_norm, out, mlp) in SEQUENCES.items():
        block = "transformer_blocks.{i}"
        key_names[f"double_blocks.{ours}.qkv"] = [f"{block}.attn.{one}" for one in (q, k, v)]
        key_names[f"double_blocks.{ours}.q_norm"] = [f"{block}.attn.{q_norm}"]
        key_names[f"double_blocks.{ours}.k_norm"] = [f"{block}.attn.{k_norm}"]
        key_names[f"double_blocks.{ours}.out"] = [f"{block}.attn.{out}"]
        key_names[f"double_blocks.{ours}.enter"] = [f"{block}.{mlp}.{enter}"]
        key_names[f"double_blocks.{ours}.leave"] = [f"{block}.{mlp}.{leave}"]
    return key_names


FIRST = layers("time_text_embed", "net.0.proj", "net.2") | {
    "vector.0": ["time_text_embed.text_embedder.linear_1"],
    "vector.2": ["time_text_embed.text_embedder.linear_2"],
    "double_blocks.image.modulation.linear": ["transformer_blocks.{i}.norm1.linear"],
    "double_blocks.text.modulation.linear": ["transformer_blocks.{i}.norm1_context.linear"],
    "single_blocks.modulation.linear": ["single_transformer_blocks.{i}.norm.linear"],
    "single_blocks.enter": [
        *(f"single_transformer_blocks.{{i}}.attn.{one}" for one in ("to_q", "to_k", "to_v")),
        "single_transformer_blocks.{i}.proj_mlp",
    ],
    "single_blocks.leave": ["single_transformer_blocks.{i}.proj_out"],
}
SECOND = layers("time_guidance_embed", "linear_in", "linear_out") | {
    "shared_image.linear": ["double_stream_modulation_img.linear"],
    "shared_text.linear": ["double_stream_modulation_txt.linear"],
    "shared_single.linear": ["single_stream_modulation.linear"],
    "single_blocks.enter": ["single_transformer_blocks.{i}.attn.to_qkv_mlp_proj"],
    "single_blocks.leave": ["single_transformer_blocks.{i}.attn.to_out"],
}


def describe(config: flux_config.Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    area = config.patch**2
    common = {
        "patch_size": 1,
        "in_channels": (config.channels + config.extra_channels) * area,
        "out_channels": config.channels * area,
        "num_layers": config.double,
        "num_single_layers": config.single,
        "attention_head_dim": sum(config.axes),
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.text_width,
        "guidance_embeds": config.guidance,
        "axes_dims_rope": list(config.axes),
    }
    if config.generation == 2:
        return {
            "_class_name": "Flux2Transformer2DModel",
            **common,
            "mlp_ratio": config.mlp_ratio,
            "rope_theta": 2000,
        }
    return {
        "_class_name": "FluxTransformer2DModel",
        **common,
        "pooled_projection_dim": config.vector_width,
    }


CHANGES = {"final.modulation.linear": Swapped()}
LAYOUTS = (
    layout(
        KeyNames("diffusers", 1, FIRST, "weight", CHANGES),
        KeyNames("diffusers", 2, SECOND, "weight", CHANGES),
        describe,
    ),
)
