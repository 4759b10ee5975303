"""Which layouts a file can be of, by one telling name each, so that only those are imported."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from safelight.layouts.key_mapping import Layout
from safelight.types.shapes import Shapes

SIGNATURES: Mapping[str, tuple[str, ...]] = {
    "autoencoder.diffusers": ("encoder.down_blocks.0.resnets.0.conv1.weight",),
    "autoencoder.ldm": ("encoder.down.0.block.0.conv1.weight",),
    "class_conditioner.ldm": ("embedding.weight", "channel_mapper.weight"),
    "clip_vision.transformers": (
        "vision_model.embeddings.class_embedding",
        "embeddings.class_embedding",
        "visual.class_embedding",
    ),
    "dit.diffusers": ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight",),
    "dit.original": ("blocks.0.attn.qkv.weight",),
    "flux.diffusers": ("x_embedder.weight",),
    "flux.original": ("img_in.weight",),
    "flux_control.diffusers": ("controlnet_x_embedder.weight",),
    "flux_control.original": ("pos_embed_input.weight",),
    "ip_adapter.original": (
        "ip_adapter.1.to_k_ip.weight",
        "ip_adapter.0.to_k_ip.weight",
        "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight",
    ),
    "mmdit.diffusers": ("pos_embed.pos_embed",),
    "mmdit.original": ("joint_blocks.0.context_block.attn.qkv.weight",),
    "mmdit_control.diffusers": ("pos_embed_input.proj.weight",),
    "mmdit_control.original": ("pos_embed_input.proj.weight",),
    "t2i_adapter.original": (
        "adapter.body.0.resnets.0.block1.weight",
        "body.0.block1.weight",
        "body.0.body.0.block1.weight",
    ),
    "text_encoder.clip": (
        "text_model.embeddings.token_embedding.weight",
        "embeddings.token_embedding.weight",
    ),
    "text_encoder.language_model": (
        "language_model.model.layers.0.mlp.gate_proj.weight",
        "model.language_model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
    ),
    "text_encoder.ldm_bert": ("token_emb.weight", "model.embed_positions.weight"),
    "text_encoder.openclip": ("token_embedding.weight",),
    "text_encoder.t5": ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
    "unet.diffusers": ("time_embedding.linear_1.weight",),
    "unet.ldm": ("input_blocks.0.0.weight",),
    "unet_control.diffusers": ("controlnet_mid_block.weight",),
    "unet_control.ldm": ("zero_convs.0.0.weight",),
}
"""By module, names of tensors of which every file in one of its layouts holds at least one."""


@cache
def layouts_of(module: str) -> tuple[Layout, ...]:
    """The layouts of one module, as ``unet.ldm``."""
    found: tuple[Layout, ...] = import_module(f"safelight.layouts.{module}").LAYOUTS
    return found


def all_layouts() -> tuple[Layout, ...]:
    """Every layout, in the order of ``SIGNATURES``."""
    return tuple(layout for module in SIGNATURES for layout in layouts_of(module))


def candidates(shapes: Shapes) -> tuple[Layout, ...]:
    """The layouts that these names may be of; the others are not even imported."""
    modules = [
        module for module, names in SIGNATURES.items() if any(name in shapes for name in names)
    ]
    return tuple(layout for module in modules for layout in layouts_of(module))


def matching(shapes: Shapes, part: str | None = None) -> list[Layout]:
    """The layouts that recognise these names and shapes, of one kind of part if it is given."""
    return [
        layout
        for layout in candidates(shapes)
        if part in (None, layout.part) and layout.recognises(shapes)
    ]
