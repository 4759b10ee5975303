"""U-Nets in diffusers' folders: ``UNet2DConditionModel`` and, without text, ``UNet2DModel``."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from safelight.denoisers.unet.config import Config
from safelight.errors import BadInput
from safelight.layouts.config_values import shortened
from safelight.layouts.key_mapping import Layout
from safelight.layouts.unet.mapping import KeyNames, infer, table
from safelight.types.shapes import Shapes

KEY_NAMES = KeyNames(
    enter="conv_in",
    time=("time_embedding.linear_1", "time_embedding.linear_2"),
    vector=("add_embedding.linear_1", "add_embedding.linear_2"),
    classes="class_embedding",
    guidance="time_embedding.cond_proj",
    norm="conv_norm_out",
    leave="conv_out",
    down="down_blocks.{level}.resnets.{block}",
    down_attention="down_blocks.{level}.attentions.{block}",
    smaller="down_blocks.{level}.downsamplers.0",
    up="up_blocks.{stage}.resnets.{block}",
    up_attention="up_blocks.{stage}.attentions.{block}",
    larger="up_blocks.{stage}.upsamplers.0",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    residual=("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
    resize=("conv", "conv"),
    plain=("group_norm", "to_out.0"),
    qkv=("to_q", "to_k", "to_v"),
)
OLD = replace(KEY_NAMES, plain=("group_norm", "proj_attn"), qkv=("query", "key", "value"))
"""Plain attention in folders from before diffusers 0.17, which are still the public ones of latent
diffusion."""

ONLY: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "addition_embed_type": (None, "text_time"),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
"""What a config.json may say where it could ask for another network with the same names and
shapes."""


def config(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """Our configuration, from a file and, as far as there is one, its config.json."""
    require(declared, ONLY)
    return infer(key_names, shapes, read_config(declared))


def require(declared: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]]) -> None:
    """BadInput for a config.json that asks for what is not here."""
    for name, known in only.items():
        if name in declared and declared[name] not in known:
            got = shortened(declared[name])
            raise BadInput(
                f"config.json: a U-Net whose {name} is {got} is not known here, only {known[0]!r}."
            )


def read_config(declared: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json in the fields of ``infer``; ``attention_head_dim`` counts heads unless there
    is no text."""
    key_names = {
        name: declared[name]
        for name in ("heads", "head_width", "groups", "eps")
        if name in declared
    }
    for mine, theirs in (("groups", "norm_num_groups"), ("eps", "norm_eps")):
        if declared.get(theirs) is not None:
            key_names[mine] = declared[theirs]
    plain = declared.get("_class_name") == "UNet2DModel"
    heads = declared.get("num_attention_heads") or declared.get("attention_head_dim")
    if heads:
        key_names["head_width" if plain else "heads"] = heads
    if isinstance(declared.get("only_cross_attention"), list):
        key_names["text_only"] = declared["only_cross_attention"]
    return key_names


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    levels = config.levels
    attends = [level.depth > 0 for level in levels]
    common = shape(config) | {"out_channels": config.channels, "sample_size": 64}
    if config.text_width:
        if config.middle == 0 or any(0 in level.up and any(level.up) for level in levels):
            raise BadInput(
                "a diffusers U-Net attends behind each block of a level, and in its middle: save "
                "native."
            )
        rising = [
            list(level.up) or [level.depth or 1] * (config.blocks + 1) for level in levels[::-1]
        ]
        up = [
            "CrossAttnUpBlock2D" if any((one.depth, *one.up)) else "UpBlock2D"
            for one in levels[::-1]
        ]
        return {
            "_class_name": "UNet2DConditionModel",
            **common,
            "up_block_types": up,
            "mid_block_type": "UNetMidBlock2DCrossAttn" if config.middle > 0 else "UNetMidBlock2D",
            "num_class_embeds": config.classes or None,
            "time_cond_proj_dim": config.guidance or None,
            **(
                {"reverse_transformer_layers_per_block": rising}
                if any(level.up for level in levels)
                else {}
            ),
        }
    if config.middle < 0:
        raise BadInput(
            "UNet2DModel has two residual blocks in its middle: it cannot hold this U-Net."
        )
    if len(widths := {level.width // level.heads for level in levels if level.depth}) > 1:
        raise BadInput(
            f"UNet2DModel has heads of one width, not of {sorted(widths)}: it cannot hold this "
            "U-Net."
        )
    plain = {
        "cross_attention_dim",
        "use_linear_projection",
        "transformer_layers_per_block",
        "only_cross_attention",
    }
    resize, plain_down, plain_up = "conv", "DownBlock2D", "UpBlock2D"
    if config.residual_resize:
        resize, plain_down, plain_up = "resnet", "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
    return {
        "_class_name": "UNet2DModel",
        **{name: value for name, value in common.items() if name not in plain},
        "down_block_types": ["AttnDownBlock2D" if one else plain_down for one in attends],
        "up_block_types": ["AttnUpBlock2D" if one else plain_up for one in attends[::-1]],
        "attention_head_dim": levels[-1].width // levels[-1].heads,
        "attn_norm_num_groups": config.norm.groups,
        "add_attention": config.middle > 0,
        "downsample_type": resize,
        "upsample_type": resize,
    }


def shape(config: Config) -> dict[str, Any]:
    """What a U-Net's config.json shares with that of a branch that controls it."""
    levels = config.levels
    if config.middle > 0 and levels[-1].depth not in (0, config.middle):
        raise BadInput(
            f"a diffusers U-Net has a middle as deep as its last level, not {config.middle}."
        )
    depths = [level.depth or 1 for level in levels]
    depths[-1] = levels[-1].depth or max(1, config.middle)  # which the middle takes too
    sdxl = (
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        if config.vector_width
        else {}
    )
    return {
        "in_channels": config.channels + config.extra_channels,
        "block_out_channels": [level.width for level in levels],
        "layers_per_block": config.blocks,
        "down_block_types": [
            "CrossAttnDownBlock2D" if level.depth else "DownBlock2D" for level in levels
        ],
        "cross_attention_dim": config.text_width,
        "attention_head_dim": [level.heads for level in levels],
        "transformer_layers_per_block": depths,
        "only_cross_attention": [level.text_only for level in levels],
        "use_linear_projection": config.linear,
        "norm_num_groups": config.norm.groups,
        "norm_eps": config.norm.eps,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "resnet_time_scale_shift": "scale_shift" if config.norm.modulated else "default",
        **sdxl,
        **(
            {"projection_class_embeddings_input_dim": config.vector_width}
            if config.vector_width
            else {}
        ),
    }


def recognises(key_names: KeyNames, shapes: Shapes) -> bool:
    """Whether these are the names of a whole U-Net; where its attention is plain, with these key
    names."""
    whole = {
        "conv_in.weight",
        "conv_norm_out.weight",
        "time_embedding.linear_1.weight",
    } <= shapes.keys()
    return whole and (f"{key_names.middle[1]}.{OLD.qkv[0]}.weight" in shapes) == (key_names is OLD)


def layout(key_names: KeyNames, example: Config) -> Layout:
    """The layout with these key names."""
    return Layout(
        "diffusers",
        "denoiser",
        lambda shapes: recognises(key_names, shapes),
        lambda shapes, declared: config(key_names, shapes, declared),
        lambda known: table(key_names, known),
        describe,
        example,
    )


LAYOUTS = (layout(KEY_NAMES, Config()), layout(OLD, Config(text_width=0)))
