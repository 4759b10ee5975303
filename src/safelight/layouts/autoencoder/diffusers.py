"""First stages in diffusers' folders: ``AutoencoderKL``, ``AutoencoderKLFlux2`` and ``VQModel``."""

from collections.abc import Mapping
from typing import Any

from safelight.autoencoders.kl import config as kl_config
from safelight.autoencoders.vq import config as vq_config
from safelight.layouts.autoencoder.mapping import KeyNames, make_layouts
from safelight.layouts.key_mapping import Pointwise


def describe(config: kl_config.Config | vq_config.Config) -> Mapping[str, Any]:
    """The folder's config.json, less the latents' scale and shift, which the family knows."""
    shape = config.pyramid
    attends = [wide for _, wide in shape.levels]
    common = {
        "in_channels": shape.channels,
        "out_channels": shape.channels,
        "down_block_types": [
            "AttnDownEncoderBlock2D" if one else "DownEncoderBlock2D" for one in attends
        ],
        "up_block_types": [
            "AttnUpDecoderBlock2D" if one else "UpDecoderBlock2D" for one in attends[::-1]
        ],
        "block_out_channels": [width for width, _ in shape.levels],
        "layers_per_block": shape.blocks,
        "act_fn": "silu",
        "latent_channels": config.latent_channels,
        "norm_num_groups": shape.groups,
    }
    if isinstance(config, vq_config.Config):
        hidden = config.hidden_channels or config.latent_channels
        return {
            "_class_name": "VQModel",
            **common,
            "latent_channels": hidden,
            "vq_embed_dim": config.latent_channels,
            "num_vq_embeddings": config.codebook.number,
            "mid_block_add_attention": config.middle,
        }
    quant = {"use_quant_conv": config.quant, "use_post_quant_conv": config.quant}
    if config.packed > 1:
        sides = [config.packed, config.packed]
        return {
            "_class_name": "AutoencoderKLFlux2",
            **common,
            **quant,
            "sample_size": 1024,
            "patch_size": sides,
        }
    return {"_class_name": "AutoencoderKL", **common, **quant, "sample_size": 512}


LAYOUTS = make_layouts(
    KeyNames(
        name="diffusers",
        down="down_blocks.{i}",
        up="up_blocks.{i}",
        reverse=True,
        block="resnets.{j}",
        attention="attentions.{j}",
        norm="group_norm",
        qkv=("to_q", "to_k", "to_v"),
        out="to_out.0",
        skip="conv_shortcut",
        smaller="downsamplers.0.conv",
        larger="upsamplers.0.conv",
        first="mid_block.resnets.0",
        second="mid_block.resnets.1",
        between="mid_block.attentions.0",
        last_norm="conv_norm_out",
        change=Pointwise(-2),
    ),
    describe,
)
