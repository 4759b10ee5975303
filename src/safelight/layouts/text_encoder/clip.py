"""CLIP's text encoder as transformers names it: in Stable Diffusion 1's files, SDXL's first text
encoder, SD 3's and FLUX.1's, and in diffusers' folders, with ``text_model.`` before its names or,
of late, without."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from safelight.layouts.config_values import heads
from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, layer
from safelight.nn.text_models.clip import Config
from safelight.types.shapes import Shapes

LAYER = {
    "norm1": ("layer_norm1",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.out_proj",),
    "norm2": ("layer_norm2",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
}


def config(prefix: str, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """The encoder's shape. What the file does not hold is taken from ``declared``: the heads, by
    default of 64 features each, and the activation, in the fields of a folder's config.json, by
    default that of CLIP up to the width of ViT-L."""
    width = shapes[f"{prefix}final_layer_norm.weight"][0]
    vocabulary, length = (
        shapes[f"{prefix}embeddings.{one}_embedding.weight"][0] for one in ("token", "position")
    )
    return Config(
        width=width,
        depth=sum(name.endswith(".self_attn.out_proj.weight") for name in shapes),
        heads=heads(width, declared),
        hidden=shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        activation=declared.get("hidden_act", "quick_gelu" if width <= 768 else "gelu"),
        vocabulary=vocabulary,
        length=length,
        projection=shapes["text_projection.weight"][0] if "text_projection.weight" in shapes else 0,
    )


def table(prefix: str, config: Config) -> KeyMapping:
    """The rules; indices of positions, which some files hold, are ignored."""
    rules = [
        KeyRule("embedding.weight", (f"{prefix}embeddings.token_embedding.weight",)),
        KeyRule("positions", (f"{prefix}embeddings.position_embedding.weight",)),
        *layer("norm", f"{prefix}final_layer_norm"),
    ]
    if config.projection:
        rules += layer("projection", "text_projection", bias=False)
    rules += blocks(prefix, config.depth)
    return KeyMapping(tuple(rules), ignored=r".*embeddings\.position_ids|logit_scale")


def blocks(prefix: str, depth: int) -> list[KeyRule]:
    """The rules of all blocks, which shared with its image encoder."""
    rules: list[KeyRule] = []
    for number in range(depth):
        for ours, theirs in LAYER.items():
            named = [f"{prefix}encoder.layers.{number}.{one}" for one in theirs]
            rules += layer(f"blocks.{number}.{ours}", *named)
    return rules


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    kind = "CLIPTextModelWithProjection" if config.projection else "CLIPTextModel"
    return {
        "architectures": [kind],
        "model_type": "clip_text_model",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": config.activation,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.length,
        "projection_dim": config.projection or config.width,
        "layer_norm_eps": 1e-5,
        "bos_token_id": config.vocabulary - 2,
        "eos_token_id": config.vocabulary - 1,
        "pad_token_id": config.vocabulary - 1,
    }


def layout(name: str, prefix: str) -> Layout:
    """The layout whose names begin with ``prefix``."""
    return Layout(
        name,
        "tower",
        lambda shapes: (
            f"{prefix}encoder.layers.0.self_attn.q_proj.weight" in shapes
            and f"{prefix}embeddings.token_embedding.weight" in shapes
        ),
        partial(config, prefix),
        partial(table, prefix),
        describe,
        Config(),
    )


LAYOUTS = (layout("transformers", "text_model."), layout("transformers-bare", ""))
