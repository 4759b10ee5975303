"""Weights in the layout of the latent diffusion repository under our names, for the tests of ``kl``
and ``vq``."""

import re
from typing import Any

import torch
from torch import Tensor

from safelight.nn.configs import Pyramid

NAMES = {  # theirs, as a pattern → ours; blocks and halves of levels are numbered in ``place``
    r"(en|de)coder\.conv_in": r"\1coder.enter",
    r"(en|de)coder\.conv_out": r"\1coder.leave",
    r"(en|de)coder\.norm_out": r"\1coder.norm",
    r"(en|de)coder\.mid\.block_1\.(\w+)": r"\1coder.middle.0.\2",
    r"(en|de)coder\.mid\.block_2\.(\w+)": r"\1coder.middle.2.\2",
    r"(en|de)coder\.mid\.attn_1\.(\w+)": r"\1coder.middle.1.\2",
    r"(en|de)coder\.(down|up)\.(\d)\.(block|attn)\.(\d)\.(\w+)": r"\1coder.levels.\2.\3.\4.\5.\6",
    r"(en|de)coder\.(down|up)\.(\d)\.(?:down|up)sample\.conv": r"\1coder.levels.\2.\3.last.0.conv",
    r"(post_)?quant_conv": r"\1quant",
    r"quantize\.embedding": "codebook.codes",
}


def body(theirs: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that ``kl`` and ``vq`` share, of a recording's own words."""
    shape = theirs["ddconfig"]
    return {
        "width": shape["ch"],
        "multipliers": tuple(shape["ch_mult"]),
        "blocks": shape["num_res_blocks"],
        "latent_channels": theirs["embed_dim"],
        "attention": tuple(shape["resolution"] // side for side in shape["attn_resolutions"]),
    }


def place(name: str, shape: Pyramid) -> str:
    """``levels.down.i.block.j`` and the like as the index in our sequence; theirs counts up's
    levels backwards."""
    found = re.search(r"levels\.(down|up)\.(\d)\.(block|attn|last)\.(\d)", name)
    if not found:
        return name
    way, level, what, number = found[1], int(found[2]), found[3], int(found[4])
    order = (
        list(enumerate(shape.levels))
        if way == "down"
        else list(reversed(list(enumerate(shape.levels))))
    )
    blocks, index = shape.blocks + (way == "up"), 0
    for one, (_, attends) in order:
        each = 1 + attends
        if one == level:
            index += blocks * each if what == "last" else number * each + (what == "attn")
            return name.replace(found.group(), f"levels.{index}")
        index += blocks * each + 1
    raise AssertionError(name)


def renamed(theirs: dict[str, Tensor], shape: Pyramid) -> dict[str, Tensor]:
    """Their weights under our names, queries, keys and values in one."""
    theirs = {name.removeprefix("first_stage_model."): value for name, value in theirs.items()}
    for stem in {name.rpartition(".q.")[0] for name in theirs if ".q." in name}:
        for kind in ("weight", "bias"):
            theirs[f"{stem}.qkv.{kind}"] = torch.cat(
                [theirs.pop(f"{stem}.{one}.{kind}") for one in "qkv"]
            )
    ours = {}
    for name, value in theirs.items():
        stem, _, kind = (
            name.replace("nin_shortcut", "skip").replace("proj_out", "out").rpartition(".")
        )
        pattern = next(one for one in NAMES if re.fullmatch(one, stem))
        ours[
            f"{place(re.sub(pattern, NAMES[pattern], stem), shape)}.{kind}".replace(
                "codes.weight", "codes"
            )
        ] = value
    return {name: value.float() for name, value in ours.items()}


def is_close(got: Tensor, want: Tensor) -> bool:
    """Within 1e-4 of the largest value."""
    error = (got - want).abs().max() / want.abs().max()
    print(f"error {error:.2e}")
    return got.shape == want.shape and bool(error < 1e-4)
