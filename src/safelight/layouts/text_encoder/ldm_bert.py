"""The text tower that latent diffusion trained itself, as it names it (x-transformers, in ``cond_stage_model.``), and
as diffusers does (``LDMBertModel``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from safelight.layouts.key_mapping import Layout, Rule, Table, layer
from safelight.nn.text_models.bert import Config
from safelight.types.shapes import Shapes


@dataclass(frozen=True)
class Words:
    """How a layout calls the parts; in the names of a block's parts ``{i}`` counts blocks, ``{a}`` and ``{m}`` their
    attentions and MLPs in one row."""

    name: str
    pieces: str
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


OURS = Words(
    name="ldm",
    pieces="token_emb.weight",
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
PEER = Words(
    name="transformers",
    pieces="model.embed_tokens.weight",
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


def recognises(words: Words, shapes: Shapes) -> bool:
    """Whether these are the bare names of such a tower."""
    return {words.pieces, words.positions, f"{words.block(words.enter, 0)}.weight"} <= shapes.keys()


def config(words: Words, shapes: Shapes, said: Mapping[str, Any]) -> Config:
    """The tower's shape; heads have 64 features each unless the user or a folder knows better."""
    vocabulary, width = shapes[words.pieces]
    inner = shapes[f"{words.block(words.attention, 0)}.{words.qkv[0]}.weight"][0]
    told = said["text_head_width"] if "text_head_width" in said else said.get("head_dim", 64)
    head = min(inner, max(1, int(told)))
    return Config(
        width=width,
        depth=next(
            one
            for one in range(len(shapes))
            if f"{words.block(words.enter, one)}.weight" not in shapes
        ),
        heads=inner // head,
        head_width=head,
        hidden=shapes[f"{words.block(words.enter, 0)}.weight"][0],
        vocabulary=vocabulary,
        length=shapes[words.positions][0],
        logits="to_logits.weight" in shapes,
    )


def table(words: Words, config: Config) -> Table:
    """The rules of the whole tower."""
    rules = [Rule("embedding.weight", (words.pieces,)), Rule("positions", (words.positions,))]
    rules += layer("norm", words.norm) + (layer("logits", "to_logits") if config.logits else [])
    for number in range(config.depth):
        ours, attention = f"blocks.{number}", words.block(words.attention, number)
        rules += layer(f"{ours}.qkv", *(f"{attention}.{one}" for one in words.qkv), bias=False)
        rules += layer(f"{ours}.out", f"{attention}.{words.out}")
        named = {
            "norm1": words.norm1,
            "norm2": words.norm2,
            "fc1": words.enter,
            "fc2": words.leave,
        }
        rules += [
            rule
            for mine, one in named.items()
            for rule in layer(f"{ours}.{mine}", words.block(one, number))
        ]
    return Table(tuple(rules))


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


def layout(words: Words) -> Layout:
    """The dialect of these words."""
    told = describe if words is PEER else None
    known = (partial(recognises, words), partial(config, words), partial(table, words))
    return Layout(words.name, "tower", *known, told, Config())


LAYOUTS = (layout(OURS), layout(PEER))
