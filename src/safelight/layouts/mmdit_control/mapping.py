"""Branches that control ``denoisers.mmdit`` in other layouts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from safelight.denoisers.control.mmdit.config import Config
from safelight.denoisers.mmdit import config as mmdit_config
from safelight.layouts.families import families
from safelight.layouts.key_mapping import KeyMapping, KeyRule, Patches, layer
from safelight.layouts.mmdit import mapping as joint_transformers
from safelight.layouts.mmdit.mapping import KeyNames
from safelight.types.shapes import Shapes

HINT, ZEROS, KIND = "pos_embed_input.proj", "controlnet_blocks", "control_type"


def table(key_names: KeyNames, config: Config) -> KeyMapping:
    """The rules of a branch: those of a transformer one block deeper, whose last block and end it
    does not have."""
    depth = config.network.depth
    whole = joint_transformers.table(key_names, replace(config.network, depth=depth + 1)).rules
    absent = ("final.", f"blocks.{depth}.", *(() if config.enters else ("patches.", "positions.")))
    absent += (
        () if config.words else ("text.", *(f"blocks.{index}.text." for index in range(depth)))
    )
    rules = [rule for rule in whole if not rule.ours.startswith(absent)]
    if not config.words:
        rules = [replace(rule, ours=rule.ours.replace(".patches.", ".")) for rule in rules]
    rules += layer("hint", HINT, change=Patches(config.network.patch))
    for index in range(depth):
        rules += layer(f"zeros.{index}", f"{ZEROS}.{index}")
    return KeyMapping((*rules, *([KeyRule("kind", (KIND,))] if config.typed else [])))


def infer(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """Our configuration of a branch's names and shapes.

    Those that take text and no mask are taken for InstantX's, which take a pooled vector of zeros
    and saw latents without the autoencoder's shift, and so is said in a folder; the one for
    inpainting had the shift.
    """
    default, hint = mmdit_config.Config(), shapes[f"{HINT}.weight"]
    first, text = key_names.first("patches"), key_names.first("text")
    missing = {
        first: hint,
        text: (hint[0], default.text_width),
        key_names.table: (1, default.side**2, hint[0]),
    }
    network = joint_transformers.config(key_names, {**missing, **shapes}, declared)
    zeros, mask = (
        bool(declared.get("force_zeros_for_pooled_projection", text in shapes)),
        hint[1] > network.channels,
    )
    sd3 = families()["sd3"]
    return Config(
        network,
        words=text in shapes,
        enters=first in shapes,
        pooled=not zeros,
        mask=mask,
        shift=sd3.shift * sd3.scale if zeros and not mask else 0.0,
        typed=KIND in shapes,
    )
