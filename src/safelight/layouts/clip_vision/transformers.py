"""CLIP's image encoders as transformers names them (``CLIPVisionModelWithProjection``, with
``vision_model.`` before its names or without), and as OpenAI's and OpenCLIP's files do
(``visual.``)."""

from collections.abc import Mapping
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

from safelight.layouts.config_values import alone
from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, Transposed, layer
from safelight.layouts.text_encoder import clip as transformers_clip
from safelight.layouts.text_encoder import openclip
from safelight.nn.clip_vision import Config
from safelight.types.shapes import Shapes

HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""How many heads the public image encoders of these widths have (ViT-B, L, H, g and bigG); others
are taken to be 64 wide."""
QUICK = 1024
"""The greatest width of an image encoder of OpenAI's, whose activation is the quick GELU."""


class KeyNames(NamedTuple):
    """How a layout names what stands around the blocks, ``block`` being the name of one's first
    MLP layer."""

    name: str
    patches: str
    first: str
    positions: str
    norm1: str
    norm2: str
    block: str
    out: str


def key_names(name: str, prefix: str) -> KeyNames:
    """The key names of transformers."""
    inside = f"{prefix}embeddings."
    return KeyNames(
        name,
        f"{inside}patch_embedding",
        f"{inside}class_embedding",
        f"{inside}position_embedding.weight",
        f"{prefix}pre_layrnorm",  # so spelled there
        f"{prefix}post_layernorm",
        f"{prefix}encoder.layers.0.mlp.fc1.weight",
        ".self_attn.out_proj.weight",
    )


OPEN = KeyNames(
    "openclip",
    "visual.conv1",
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.ln_pre",
    "visual.ln_post",
    "visual.transformer.resblocks.0.mlp.c_fc.weight",
    ".attn.in_proj_weight",
)


def config(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """The image encoder's shape. What the file does not hold is taken from ``declared``:
    ``image_encoder_heads`` and ``image_encoder_activation``, or the words of a folder's
    config.json, by default those of the public image encoders of this width."""
    width, _, patch, _ = shapes[f"{key_names.patches}.weight"]
    side = isqrt(shapes[key_names.positions][0] - 1)
    named = shapes.get("visual_projection.weight", (0,))[0] or shapes.get("visual.proj", (0, 0))[1]
    usual = HEADS.get(width, max(1, width // 64))
    quick = "quick_gelu" if width <= QUICK else "gelu"
    return Config(
        width=width,
        depth=sum(name.endswith(key_names.out) for name in shapes),
        heads=alone(
            declared,
            "image_encoder_heads" if "image_encoder_heads" in declared else "num_attention_heads",
            usual,
        ),
        hidden=shapes[key_names.block][0],
        activation=declared.get("image_encoder_activation", declared.get("hidden_act", quick)),
        patch=patch,
        size=side * patch,
        projection=named,
    )


def table(key_names: KeyNames, prefix: str, config: Config) -> KeyMapping:
    """The rules; indices of positions, which some files hold, are ignored."""
    rules = [
        KeyRule("patches.weight", (f"{key_names.patches}.weight",)),
        KeyRule("class_embedding", (key_names.first,)),
        KeyRule("positions", (key_names.positions,)),
        *layer("norm1", key_names.norm1),
        *layer("norm2", key_names.norm2),
    ]
    if key_names is OPEN:
        ours = [KeyRule("projection.weight", ("visual.proj",), Transposed())]
        rules += openclip.blocks(prefix, config.depth)
    else:
        ours = layer("projection", "visual_projection", bias=False)
        rules += transformers_clip.blocks(prefix, config.depth)
    return KeyMapping(
        (*rules, *(ours if config.projection else ())), ignored=r".*embeddings\.position_ids"
    )


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    return {
        "architectures": [
            "CLIPVisionModelWithProjection" if config.projection else "CLIPVisionModel"
        ],
        "model_type": "clip_vision_model",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": config.activation,
        "image_size": config.size,
        "patch_size": config.patch,
        "projection_dim": config.projection or config.width,
        "layer_norm_eps": 1e-5,
    }


def layout(key_names: KeyNames, prefix: str) -> Layout:
    """The layout with these key names, ``prefix`` standing before the names of blocks."""
    return Layout(
        key_names.name,
        "image_encoder",
        lambda shapes: (
            {f"{key_names.patches}.weight", key_names.first, key_names.positions} <= shapes.keys()
        ),
        partial(config, key_names),
        partial(table, key_names, prefix),
        None if key_names is OPEN else describe,
        Config(),
    )


LAYOUTS = (
    layout(key_names("transformers", "vision_model."), "vision_model."),
    layout(key_names("transformers-bare", ""), ""),
    layout(OPEN, "visual."),
)
