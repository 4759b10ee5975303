"""The peer library's networks with weights of the original layouts, read by the peer's own maps of
names."""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import transformers
from diffusers.loaders import single_file_utils as maps
from safetensors.torch import load_file
from torch import Tensor, nn

File = dict[str, Tensor]
Settings = Mapping[str, Any]

UNETS: dict[str, Settings] = {
    "sd1": {"cross_attention_dim": 8, "attention_head_dim": 4},
    "sd2-v": {
        "cross_attention_dim": 20,
        "attention_head_dim": (4, 8),
        "use_linear_projection": True,
    },
    "sdxl": {
        "cross_attention_dim": 40,
        "attention_head_dim": (4, 8),
        "use_linear_projection": True,
        "transformer_layers_per_block": (2, 1),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 212,
    },
    "sd-x4-upscaler": {
        "in_channels": 7,
        "cross_attention_dim": 14,
        "attention_head_dim": 2,
        "use_linear_projection": True,
        "only_cross_attention": (True, False),
        "num_class_embeds": 1000,
    },
}
UNETS["sd1-edit"] = {**UNETS["sd1"], "cross_attention_dim": 10, "in_channels": 8}
UNETS["sd2-inpaint"] = {**UNETS["sd2-v"], "in_channels": 9}
UNETS["sd2-depth"] = {**UNETS["sd2-v"], "in_channels": 5}
UNETS["sdxl-inpaint"] = {**UNETS["sdxl"], "in_channels": 9}
UNETS["sdxl-refiner"] = {
    **UNETS["sdxl"],
    "down_block_types": (
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 32, 64, 64),
    "attention_head_dim": (4, 4, 8, 8),
    "transformer_layers_per_block": 2,
    "cross_attention_dim": 24,
    "projection_class_embeddings_input_dim": 180,
}
TWO_LEVELS: Settings = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
}
TOWERS: dict[str, Settings] = {
    "sd1": {
        "vocab_size": 49408,
        "hidden_size": 8,
        "intermediate_size": 40,
        "num_attention_heads": 2,
    },
    "sd2-v": {
        "vocab_size": 500,
        "hidden_size": 20,
        "intermediate_size": 80,
        "num_attention_heads": 2,
    },
    "sdxl-l": {
        "vocab_size": 640,
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_attention_heads": 2,
    },
    "sdxl-g": {
        "vocab_size": 640,
        "hidden_size": 24,
        "intermediate_size": 96,
        "num_attention_heads": 3,
    },
}
TOWERS["sd1"] = {**TOWERS["sd1"], "hidden_act": "quick_gelu"}
TOWERS["sd2-v"] = {**TOWERS["sd2-v"], "hidden_act": "gelu", "projection_dim": 16}
TOWERS["sdxl-l"] = {**TOWERS["sdxl-l"], "hidden_act": "quick_gelu"}
TOWERS["sdxl-g"] = {**TOWERS["sdxl-g"], "hidden_act": "gelu", "projection_dim": 20}


def read(path: Any) -> File:
    """A file's tensors in the fp32 in which networks run."""
    return {
        name: one.float() if one.is_floating_point() else one
        for name, one in load_file(path).items()
    }


def under(file: File, prefix: str) -> File:
    return {name.removeprefix(prefix): one for name, one in file.items() if name.startswith(prefix)}


def filled(network: nn.Module, weights: File) -> Any:
    """``network`` with exactly these weights, ready to be asked."""
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def unet(family: str, file: File) -> Any:
    network = diffusers.UNet2DConditionModel(**{**TWO_LEVELS, **UNETS[family]})
    return filled(network, maps.convert_ldm_unet_checkpoint(dict(file), network.config))


def tower(kind: str, file: File) -> Any:
    """A CLIP text tower; ``file`` in its own names: those of transformers, or OpenCLIP's."""
    said = TOWERS[kind]
    ends = {
        "bos_token_id": said["vocab_size"] - 2,
        "eos_token_id": said["vocab_size"] - 1,
        "num_hidden_layers": 3,
    }
    config = transformers.CLIPTextConfig(**said, **ends, attn_implementation="eager")
    network = transformers.CLIPTextModelWithProjection(config)
    if "positional_embedding" in file:
        whole = {f"x.{name}": one for name, one in file.items()}
        file = maps.convert_open_clip_checkpoint(network, whole, "x.")
    wanted = network.state_dict()
    names = {name: name if name in wanted else name.removeprefix("text_model.") for name in file}
    file = {names[name]: one for name, one in file.items() if not name.endswith("position_ids")}
    return filled(
        network, {**{name: wanted[name] for name in wanted if "projection" in name}, **file}
    )


def autoencoder(file: File, widths: tuple[int, ...], channels: int, quant: bool = True) -> Any:
    shape = {"block_out_channels": widths, "layers_per_block": 1, "latent_channels": channels}
    shape |= {"down_block_types": ("DownEncoderBlock2D",) * len(widths)}
    shape |= {"up_block_types": ("UpDecoderBlock2D",) * len(widths)}
    network = diffusers.AutoencoderKL(**shape, use_quant_conv=quant, use_post_quant_conv=quant)
    return filled(network, maps.convert_ldm_vae_checkpoint(dict(file), network.config))


def second_flux_autoencoder(file: File) -> Any:
    """FLUX.2's, whose convolutions beside the latents have names of their own, and its statistics
    of packed latents."""
    network = diffusers.AutoencoderKLFlux2(block_out_channels=(32,) * 4, layers_per_block=1)
    places = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
    plain, kept = {}, {name: one for name, one in file.items() if name.startswith("bn.")}
    for name, one in file.items():
        place = next((place for place in places if name.startswith(place)), "")
        plain[name.replace(place, places[place]) if place else name] = one
    return filled(network, maps.convert_ldm_vae_checkpoint(plain, network.config) | kept)


MMDITS: dict[str, Settings] = {
    "sd3": {
        "num_layers": 1,
        "num_attention_heads": 1,
        "caption_projection_dim": 64,
        "pos_embed_max_size": 24,
        "joint_attention_dim": 36,
        "pooled_projection_dim": 40,
    },
    "sd35-medium": {
        "num_layers": 2,
        "num_attention_heads": 2,
        "caption_projection_dim": 128,
        "pos_embed_max_size": 32,
        "joint_attention_dim": 28,
        "pooled_projection_dim": 24,
        "qk_norm": "rms_norm",
        "dual_attention_layers": (0,),
    },
}
FLUX: Settings = {
    "num_layers": 1,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "joint_attention_dim": 28,
    "pooled_projection_dim": 20,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 10, 10),
}
SECOND_FLUX: Settings = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "joint_attention_dim": 36,
    "axes_dims_rope": (6, 6, 6, 6),
}


def mmdit(family: str, file: File) -> Any:
    network = diffusers.SD3Transformer2DModel(
        patch_size=2, in_channels=16, out_channels=16, **MMDITS[family]
    )
    return filled(network, maps.convert_sd3_transformer_checkpoint_to_diffusers(dict(file)))


def flux(file: File, singles: int, channels: int = 64) -> Any:
    network = diffusers.FluxTransformer2DModel(
        in_channels=channels, out_channels=64, num_single_layers=singles, **FLUX
    )
    return filled(network, narrow_flux_map()(dict(file)))


def narrow_flux_map() -> Any:
    """The peer's map of FLUX's names, in which the public width of 3072 is written, for the width
    of 48."""
    public = maps.convert_flux_transformer_checkpoint_to_diffusers
    source = inspect.getsource(public)
    assert "3072" in source
    place: dict[str, Any] = {}
    exec(source.replace("3072", "48"), vars(maps), place)
    return place[public.__name__]


def second_flux(file: File) -> Any:
    network = diffusers.Flux2Transformer2DModel(in_channels=128, **SECOND_FLUX)
    return filled(network, maps.convert_flux2_transformer_checkpoint_to_diffusers(dict(file)))
