"""The text encoder that latent diffusion trained itself, as it names it (x-transformers, in
``cond_stage_model.``), and as diffusers does (``LDMBertModel``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, layer
from safelight.nn.text_models.bert import Config
from safelight.types.shapes import Shapes


@dataclass(frozen=True)
class KeyNames:
    """How a layout names the parts; in the names of a block's parts ``{i}`` counts blocks, ``{a}``
    and ``{m}`` their attentions and MLPs in one row."""

    name: str
    detect_parts: str
    positions: str
    norm: str
    norm1: str
    attention: str
    qkv: tuple[str, str, str]
    out: str
    norm2: str
    enter: str
    leave: str

    def block(self, path: str, number: int) -> str:
        """A path in a block."""
        return path.format(i=number, a=2 * number, m=2 * number + 1)


OURS = KeyNames(
    name="ldm",
    detect_parts="token_emb.weight",
    positions="pos_emb.emb.weight",
    norm="norm",
    norm1="attn_layers.layers.{a}.0",
    attention="attn_layers.layers.{a}.1",
    qkv=("to_q", "to_k", "to_v"),
    out="to_out",
    norm2="attn_layers.layers.{m}.0",
    enter="attn_layers.layers.{m}.1.net.0.0",
    leave="attn_layers.layers.{m}.1.net.2",
)
PEER = KeyNames(
    name="transformers",
    detect_parts="model.embed_tokens.weight",
    positions="model.embed_positions.weight",
    norm="model.layer_norm",
    norm1="model.layers.{i}.self_attn_layer_norm",
    attention="model.layers.{i}.self_attn",
    qkv=("q_proj", "k_proj", "v_proj"),
    out="out_proj",
    norm2="model.layers.{i}.final_layer_norm",
    enter="model.layers.{i}.fc1",
    leave="model.layers.{i}.fc2",
)


def recognises(key_names: KeyNames, shapes: Shapes) -> bool:
    """Whether these are the bare names of such an encoder."""
    return {
        key_names.detect_parts,
        key_names.positions,
        f"{key_names.block(key_names.enter, 0)}.weight",
    } <= shapes.keys()


def config(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """The encoder's shape; heads have 64 features each unless the user or a folder knows better."""
    vocabulary, width = shapes[key_names.detect_parts]
    inner = shapes[f"{key_names.block(key_names.attention, 0)}.{key_names.qkv[0]}.weight"][0]
    declared_width = (
        declared["text_head_width"]
        if "text_head_width" in declared
        else declared.get("head_dim", 64)
    )
    head = min(inner, max(1, int(declared_width)))
    return Config(
        width=width,
        depth=next(
            one
            for one in range(len(shapes))
            if f"{key_names.block(key_names.enter, one)}.weight" not in shapes
        ),
        heads=inner // head,
        head_width=head,
        hidden=shapes[f"{key_names.block(key_names.enter, 0)}.weight"][0],
        vocabulary=vocabulary,
        length=shapes[key_names.positions][0],
        logits="to_logits.weight" in shapes,
    )


def table(key_names: KeyNames, config: Config) -> KeyMapping:
    """The rules of the whole encoder."""
    rules = [
        KeyRule("embedding.weight", (key_names.detect_parts,)),
        KeyRule("positions", (key_names.positions,)),
    ]
    rules += layer("norm", key_names.norm) + (layer("logits", "to_logits") if config.logits else [])
    for number in range(config.depth):
        ours, attention = f"blocks.{number}", key_names.block(key_names.attention, number)
        rules += layer(f"{ours}.qkv", *(f"{attention}.{one}" for one in key_names.qkv), bias=False)
        rules += layer(f"{ours}.out", f"{attention}.{key_names.out}")
        named = {
            "norm1": key_names.norm1,
            "norm2": key_names.norm2,
            "fc1": key_names.enter,
            "fc2": key_names.leave,
        }
        rules += [
            rule
            for mine, one in named.items()
            for rule in layer(f"{ours}.{mine}", key_names.block(one, number))
        ]
    return KeyMapping(tuple(rules))


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    return {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "d_model": config.width,
        "encoder_layers": config.depth,
        "encoder_attention_heads": config.heads,
        "head_dim": config.head_width,
        "encoder_ffn_dim": config.hidden,
        "activation_function": "gelu",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.length,
        "pad_token_id": 0,
    }


def layout(key_names: KeyNames) -> Layout:
    """The layout with these key names."""
    describe_folder = describe if key_names is PEER else None
    known = (partial(recognises, key_names), partial(config, key_names), partial(table, key_names))
    return Layout(key_names.name, "tower", *known, describe_folder, Config())


LAYOUTS = (layout(OURS), layout(PEER))
