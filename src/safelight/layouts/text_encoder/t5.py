"""T5's encoder as transformers names it: the third text encoder of Stable Diffusion 3, the second
of FLUX.1."""

from collections.abc import Mapping
from typing import Any

from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, layer
from safelight.nn.text_models.t5 import Config
from safelight.types.shapes import Shapes

FIRST = "encoder.block.0.layer.0.SelfAttention"


def config(shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """The encoder's shape; only the farthest distance is not in the file."""
    buckets, heads = shapes[f"{FIRST}.relative_attention_bias.weight"]
    vocabulary, width = shapes["shared.weight"]
    return Config(
        width=width,
        depth=sum(name.endswith(".SelfAttention.q.weight") for name in shapes),
        heads=heads,
        head_width=shapes[f"{FIRST}.q.weight"][0] // heads,
        hidden=shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        vocabulary=vocabulary,
        buckets=buckets,
        max_distance=declared.get("relative_attention_max_distance", 128),
    )


def table(config: Config) -> KeyMapping:
    """The rules; the embedding that some files hold a second time is read once."""
    rules = [
        KeyRule("embedding.weight", ("shared.weight",)),
        KeyRule("relative_positions.weight", (f"{FIRST}.relative_attention_bias.weight",)),
        KeyRule("norm.weight", ("encoder.final_layer_norm.weight",)),
    ]
    for number in range(config.depth):
        ours, theirs = f"blocks.{number}", f"encoder.block.{number}"
        attention, mlp = f"{theirs}.layer.0", f"{theirs}.layer.1"
        parts = {
            "norm1": (f"{attention}.layer_norm",),
            "qkv": tuple(f"{attention}.SelfAttention.{one}" for one in "qkv"),
            "out": (f"{attention}.SelfAttention.o",),
            "norm2": (f"{mlp}.layer_norm",),
            "fc1": (f"{mlp}.DenseReluDense.wi_0", f"{mlp}.DenseReluDense.wi_1"),
            "fc2": (f"{mlp}.DenseReluDense.wo",),
        }
        rules += [
            rule
            for mine, named in parts.items()
            for rule in layer(f"{ours}.{mine}", *named, bias=False)
        ]
    return KeyMapping(tuple(rules), ignored=r"encoder\.embed_tokens\.weight")


def describe(config: Config) -> Mapping[str, Any]:
    """The folder's config.json."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_model": config.width,
        "num_layers": config.depth,
        "num_heads": config.heads,
        "d_kv": config.head_width,
        "d_ff": config.hidden,
        "vocab_size": config.vocabulary,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.max_distance,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": False,
        "use_cache": False,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


LAYOUTS = (
    Layout(
        "transformers",
        "tower",
        lambda shapes: (
            f"{FIRST}.relative_attention_bias.weight" in shapes and "shared.weight" in shapes
        ),
        config,
        table,
        describe,
        Config(),
    ),
)
