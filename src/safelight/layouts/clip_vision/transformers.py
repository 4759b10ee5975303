"""CLIP's eyes as transformers names them (``CLIPVisionModelWithProjection``, with ``vision_model.`` before its names or
without), and as OpenAI's and OpenCLIP's files do (``visual.``)."""

from collections.abc import Mapping
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

from safelight.layouts.config_values import alone
from safelight.layouts.key_mapping import Layout, Rule, Table, Transposed, layer
from safelight.layouts.text_encoder import clip as transformers_clip
from safelight.layouts.text_encoder import openclip
from safelight.nn.clip_vision import Config
from safelight.types.shapes import Shapes

HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""How many heads the public eyes of these widths have (ViT-B, L, H, g and bigG); others are taken to be 64 wide."""
QUICK = 1024
"""The greatest width of an eye of OpenAI's, whose activation is the quick GELU."""


class Words(NamedTuple):
    """How a layout calls what stands around the blocks, ``block`` being the name of one's first MLP layer."""

    name: str
    patches: str
    first: str
    positions: str
    norm1: str
    norm2: str
    block: str
    out: str


def words(name: str, prefix: str) -> Words:
    """transformers' words."""
    inside = f"{prefix}embeddings."
    return Words(
        name,
        f"{inside}patch_embedding",
        f"{inside}class_embedding",
        f"{inside}position_embedding.weight",
        f"{prefix}pre_layrnorm",  # so spelled there
        f"{prefix}post_layernorm",
        f"{prefix}encoder.layers.0.mlp.fc1.weight",
        ".self_attn.out_proj.weight",
    )


OPEN = Words(
    "openclip",
    "visual.conv1",
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.ln_pre",
    "visual.ln_post",
    "visual.transformer.resblocks.0.mlp.c_fc.weight",
    ".attn.in_proj_weight",
)


def config(words: Words, shapes: Shapes, said: Mapping[str, Any]) -> Config:
    """The eye's shape. What the file does not hold is taken from ``said``: ``image_encoder_heads`` and ``image_encoder_activation``, or the
    words of a folder's config.json, by default those of the public eyes of this width."""
    width, _, patch, _ = shapes[f"{words.patches}.weight"]
    side = isqrt(shapes[words.positions][0] - 1)
    named = shapes.get("visual_projection.weight", (0,))[0] or shapes.get("visual.proj", (0, 0))[1]
    usual = HEADS.get(width, max(1, width // 64))
    quick = "quick_gelu" if width <= QUICK else "gelu"
    return Config(
        width=width,
        depth=sum(name.endswith(words.out) for name in shapes),
        heads=alone(
            said,
            "image_encoder_heads" if "image_encoder_heads" in said else "num_attention_heads",
            usual,
        ),
        hidden=shapes[words.block][0],
        activation=said.get("image_encoder_activation", said.get("hidden_act", quick)),
        patch=patch,
        size=side * patch,
        projection=named,
    )


def table(words: Words, prefix: str, config: Config) -> Table:
    """The rules; the numbers of positions, which some files hold, say nothing."""
    rules = [
        Rule("patches.weight", (f"{words.patches}.weight",)),
        Rule("class_embedding", (words.first,)),
        Rule("positions", (words.positions,)),
        *layer("norm1", words.norm1),
        *layer("norm2", words.norm2),
    ]
    if words is OPEN:
        ours = [Rule("projection.weight", ("visual.proj",), Transposed())]
        rules += openclip.blocks(prefix, config.depth)
    else:
        ours = layer("projection", "visual_projection", bias=False)
        rules += transformers_clip.blocks(prefix, config.depth)
    return Table(
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


def layout(words: Words, prefix: str) -> Layout:
    """The dialect of these words, ``prefix`` standing before the names of blocks."""
    return Layout(
        words.name,
        "image_encoder",
        lambda shapes: {f"{words.patches}.weight", words.first, words.positions} <= shapes.keys(),
        partial(config, words),
        partial(table, words, prefix),
        None if words is OPEN else describe,
        Config(),
    )


LAYOUTS = (
    layout(words("transformers", "vision_model."), "vision_model."),
    layout(words("transformers-bare", ""), ""),
    layout(OPEN, "visual."),
)
