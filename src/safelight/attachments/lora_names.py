"""The names of tensors in LoRA files: kohya, PEFT, diffusers old and new, x-labs, cloneofsimo and
others. No torch."""

import re
from collections.abc import Iterable, Mapping

KEY = re.compile(
    r"(?P<module>.+?)[._]"
    r"(?:(?:lora|lora_linear_layer)[._](?P<low>up|down|mid|A|B)(?:\.default)?\.(?P<of>weight|bias)"
    r"|(?P<alpha>alpha)"
    r"|(?P<magnitude>dora_scale|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
    r"|(?P<other>hada_\w+|lokr_\w+|diff|diff_b))"
)
TENSORS = {"A": "down", "B": "up", "diff_b": "bias"}
"""Our names of tensors that some files call otherwise."""

XLABS = re.compile(
    r"(?:diffusion_model\.)?(double|single)_blocks\.(\d+)\.processor"
    r"\.(qkv|proj)_lora([12]?)\.(up|down)\.weight"
)
NORM = re.compile(r"(.+\.norm_(?:added_)?[qk])\.weight")
"""Norms, which control LoRAs hold whole."""

NUMBERED = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
"""cloneofsimo's names, which count the layers."""

PREFIXES = {
    "denoiser": (
        "lora_unet_unet_",
        "lora_unet_",
        "lora_transformer_",
        "base_model_model_",
        "model_diffusion_model_",
        "diffusion_model_",
        "transformer_",
        "unet_",
        "",
    ),
    "tower.0": ("lora_te1_", "lora_te_", "text_encoder_"),
    "tower.1": ("lora_te2_", "text_encoder_2_"),
    "tower.2": ("lora_te3_", "text_encoder_3_"),
}
"""What stands before a module's name, by part, dots as underscores; the longer first."""

FAMILIES = {
    r"blocks_\d+_(cross|self)_attn_(q|k|v|output)_proj": "Anima",
    r"blocks_\d+_attn_w[qkvo]_": "Krea 2",
    r"transformer_blocks_\d+_(img|txt)_(mlp|mod)": "Qwen-Image",
    r"(double|single)_blocks_\d|single_transformer_blocks_\d": "FLUX",
    r"joint_blocks_\d|transformer_blocks_\d+_(attn|norm1_context|ff_context)_": (
        "Stable Diffusion 3 or FLUX"
    ),
    r"(input|output)_blocks_\d|(down|up)_blocks_\d|mid_block_": "Stable Diffusion 1, 2 or XL",
}
"""The families that LoRAs are made for, by a pattern of their names with underscores."""


def split_name(name: str, numbered: Mapping[str, str]) -> tuple[str, str]:
    """The module that a tensor is for, and which of its tensors it is.

    ``numbered`` are the modules of names that count the layers, as ``unet:12``.
    """
    if match := NUMBERED.fullmatch(name):
        module = f"{match[1]}:{match[2]}"
        return numbered.get(module, module), match[3]
    if match := XLABS.fullmatch(name):
        stream = {"1": "img", "2": "txt"}[match[4]]
        return f"double_blocks.{match[2]}.{stream}_attn.{match[3]}", match[5]
    match = KEY.fullmatch(name.replace(".processor.", "."))
    if match is None:
        return NORM.sub(r"\1", name), "value"
    module = re.sub(r"\bto_out$", "to_out.0", match["module"])
    if match["low"]:
        tensor = "bias" if match["of"] == "bias" else match["low"]
        return module, TENSORS.get(tensor, tensor)
    tensor = match["other"] or ("alpha" if match["alpha"] else "magnitude")
    return module, TENSORS.get(tensor, tensor)


def has_low_rank(names: Iterable[str]) -> bool:
    """Whether any of these names is that of a low-rank matrix."""
    matches = (KEY.fullmatch(name) for name in names)
    return any(match is not None and match["low"] for match in matches)


def family_title(names: Iterable[str]) -> str:
    """The family whose modules have such names, dots as underscores; empty if none is known."""
    text = "\n".join(names)
    return next((title for pattern, title in FAMILIES.items() if re.search(pattern, text)), "")
