"""Language models as transformers names them, of which the first three quarters are a text
encoder: Mistral Small 3, alone or with the image encoder of Mistral 3, for FLUX.2 dev, and Qwen 3
for FLUX.2 klein. What lies behind is not read."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, layer
from safelight.nn.text_models.decoder import Config
from safelight.types.shapes import Shapes

PREFIXES = {
    "transformers": "language_model.model.",
    "transformers-5": "model.language_model.",
    "plain": "model.",
}


def config(prefix: str, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """Its shape. A head's width, frequencies and epsilon are in no file: a folder's config.json
    says them, else they are Mistral Small 3's, or Qwen 3's where queries are normed. The states
    are those of each quarter of its blocks."""
    text_config = declared.get("text_config", declared)
    vocabulary, width = shapes[f"{prefix}embed_tokens.weight"]
    first = f"{prefix}layers.0"
    qk_norm = f"{first}.self_attn.q_norm.weight" in shapes
    head = (
        shapes[f"{first}.self_attn.q_norm.weight"][0]
        if qk_norm
        else int(text_config.get("head_dim") or 128)
    )
    rope = text_config.get("rope_parameters") or text_config
    depth = sum(
        name.startswith(f"{prefix}layers.") and name.endswith(".mlp.down_proj.weight")
        for name in shapes
    )
    return Config(
        width=width,
        output_layers=tuple(sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3)})),
        heads=shapes[f"{first}.self_attn.q_proj.weight"][0] // head,
        kv_heads=shapes[f"{first}.self_attn.k_proj.weight"][0] // head,
        head_width=head,
        hidden=shapes[f"{first}.mlp.gate_proj.weight"][0],
        vocabulary=vocabulary,
        qk_norm=qk_norm,
        rope_theta=float(rope.get("rope_theta", 1e6 if qk_norm else 1e9)),
        eps=float(text_config.get("rms_norm_eps", 1e-6 if qk_norm else 1e-5)),
    )


def table(prefix: str, config: Config) -> KeyMapping:
    """The rules; blocks behind the last that is used, the words' way out and the image encoder are
    left alone."""
    rules = [KeyRule("embedding.weight", (f"{prefix}embed_tokens.weight",))]
    rows = tuple(
        one * config.head_width for one in (config.heads, config.kv_heads, config.kv_heads)
    )
    for number in range(config.depth):
        ours, theirs = f"blocks.{number}", f"{prefix}layers.{number}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        rules += layer(
            f"{ours}.qkv", *(f"{attention}.{one}_proj" for one in "qkv"), bias=False, rows=rows
        )
        parts = {
            "norm1": (f"{theirs}.input_layernorm",),
            "out": (f"{attention}.o_proj",),
            "norm2": (f"{theirs}.post_attention_layernorm",),
            "fc1": (f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            "fc2": (f"{mlp}.down_proj",),
        }
        parts |= {
            f"{one}_norm": (f"{attention}.{one}_norm",) for one in ("q", "k") if config.qk_norm
        }
        rules += [
            rule
            for mine, named in parts.items()
            for rule in layer(f"{ours}.{mine}", *named, bias=False)
        ]
    used = "|".join(map(str, range(config.depth)))
    behind = rf"{re.escape(prefix)}(layers\.(?!({used})\.).*|norm\.weight)"
    unused = r".*lm_head\.weight|.*(vision_tower|multi_modal_projector)\..*|tekken_model"
    return KeyMapping(tuple(rules), ignored=f"{behind}|{unused}")


def layout(name: str, prefix: str) -> Layout:
    """The layout whose names begin with ``prefix``."""
    needed = {f"{prefix}embed_tokens.weight", f"{prefix}layers.0.mlp.gate_proj.weight"}
    return Layout(
        name,
        "tower",
        lambda shapes: needed <= shapes.keys(),
        partial(config, prefix),
        partial(table, prefix),
        example=Config(),
    )


LAYOUTS = tuple(layout(name, prefix) for name, prefix in PREFIXES.items())
