"""Text encoders as OpenCLIP names them: in the single files of Stable Diffusion 2 (ViT-H) and SDXL
(ViT-bigG).

Every block is stored, also the last one, which Stable Diffusion 2 does not use.
"""

from collections.abc import Mapping
from typing import Any

from safelight.layouts.config_values import heads
from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, Transposed, layer
from safelight.nn.text_models.clip import Config
from safelight.types.shapes import Shapes

LAYER = {
    "norm1": "ln_1",
    "out": "attn.out_proj",
    "norm2": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def config(shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """The encoder's shape; heads have 64 features each unless ``declared`` knows better. All public
    ones use GELU."""
    width = shapes["ln_final.weight"][0]
    return Config(
        width=width,
        depth=sum(name.endswith(".attn.in_proj_weight") for name in shapes),
        heads=heads(width, declared),
        hidden=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        activation="gelu",
        vocabulary=shapes["token_embedding.weight"][0],
        length=shapes["positional_embedding"][0],
        projection=shapes["text_projection"][1] if "text_projection" in shapes else 0,
        temperature="logit_scale" in shapes,
    )


def table(config: Config) -> KeyMapping:
    """The rules; the mask, which some files hold, is ignored."""
    rules = [
        KeyRule("embedding.weight", ("token_embedding.weight",)),
        KeyRule("positions", ("positional_embedding",)),
        *layer("norm", "ln_final"),
    ]
    if config.projection:
        rules.append(KeyRule("projection.weight", ("text_projection",), Transposed()))
    if config.temperature:
        rules.append(KeyRule("temperature", ("logit_scale",)))
    return KeyMapping((*rules, *blocks("", config.depth)), ignored="attn_mask")


def blocks(prefix: str, depth: int) -> list[KeyRule]:
    """The rules of all blocks, which shared with its image encoder."""
    rules: list[KeyRule] = []
    for number in range(depth):
        ours, theirs = f"blocks.{number}", f"{prefix}transformer.resblocks.{number}"
        rules += [
            KeyRule(f"{ours}.qkv.{one}", (f"{theirs}.attn.in_proj_{one}",))
            for one in ("weight", "bias")
        ]
        rules += [
            rule
            for mine, one in LAYER.items()
            for rule in layer(f"{ours}.{mine}", f"{theirs}.{one}")
        ]
    return rules


LAYOUTS = (
    Layout(
        "openclip",
        "tower",
        lambda shapes: (
            {"transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight"}
            <= shapes.keys()
        ),
        config,
        table,
        example=Config(1280, 32, 20, 5120, "gelu", projection=1280, temperature=True),
    ),
)
