"""The autoencoders of ``nn.conv_autoencoder`` in other layouts: the names of each layout in a
table, one mapping for all."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safelight.autoencoders.kl import config as kl_config
from safelight.autoencoders.vq import config as vq_config
from safelight.layouts.key_mapping import SAME, KeyMapping, KeyRule, Layout, TensorTransform, layer
from safelight.nn.configs import Codes, Pyramid
from safelight.types.shapes import Shapes


@dataclass(frozen=True)
class KeyNames:
    """How a layout names the parts of an encoder or decoder; ``{i}`` is a level, ``{j}`` a block
    of it."""

    name: str
    down: str
    up: str
    reverse: bool  # whether the decoder's levels are counted from the latents
    block: str
    attention: str
    norm: str
    qkv: tuple[str, str, str]
    out: str
    skip: str
    smaller: str
    larger: str
    first: str
    second: str
    between: str
    last_norm: str
    packed_quant: tuple[str, str] = (
        "quant_conv",
        "post_quant_conv",
    )  # where latents are packed (FLUX.2)
    change: TensorTransform = SAME  # of attention's weights: ours are 1×1 convolutions

    def level(self, half: str, level: int, levels: int) -> str:
        """The path of a level, counted from the pictures."""
        number = levels - 1 - level if half == "decoder" and self.reverse else level
        return f"{half}.{(self.down if half == 'encoder' else self.up).format(i=number)}"


def make_layouts(
    key_names: KeyNames, describe: Callable[[Any], Mapping[str, Any]] | None = None
) -> tuple[Layout, ...]:
    """The layout of ``kl`` and of ``vq`` with these key names."""
    return (
        Layout(
            key_names.name,
            "autoencoder",
            lambda shapes: _fits(key_names, shapes, False),
            lambda shapes, declared: _kl(key_names, shapes, declared),
            lambda config: table(key_names, config),
            describe,
            kl_config.Config(),
        ),
        Layout(
            key_names.name,
            "autoencoder",
            lambda shapes: _fits(key_names, shapes, True),
            lambda shapes, declared: _vq(key_names, shapes, declared),
            lambda config: table(key_names, config),
            describe,
            vq_config.Config(),
        ),
    )


def table(key_names: KeyNames, config: kl_config.Config | vq_config.Config) -> KeyMapping:
    """The rules of a whole autoencoder; what training keeps beside it is ignored."""
    rules = [
        *half(key_names, "encoder", config.pyramid),
        *half(key_names, "decoder", config.pyramid),
    ]
    packed = isinstance(config, kl_config.Config) and config.packed > 1
    if not isinstance(config, kl_config.Config) or config.quant:
        before, after = key_names.packed_quant if packed else ("quant_conv", "post_quant_conv")
        rules += [*layer("quant", before), *layer("post_quant", after)]
    if packed:
        names = {"mean": "running_mean", "variance": "running_var", "count": "num_batches_tracked"}
        rules += [KeyRule(f"scale.{ours}", (f"bn.{theirs}",)) for ours, theirs in names.items()]
    if isinstance(config, vq_config.Config):
        rules.append(KeyRule("codebook.codes", ("quantize.embedding.weight",)))
    return KeyMapping(tuple(rules), ignored=r"loss\..*|model_ema\.(decay|num_updates)")


def half(key_names: KeyNames, name: str, shape: Pyramid) -> list[KeyRule]:
    """The rules of the encoder or the decoder."""
    rules = [
        *layer(f"{name}.enter", f"{name}.conv_in"),
        *layer(f"{name}.leave", f"{name}.conv_out"),
    ]
    rules += [*layer(f"{name}.norm", f"{name}.{key_names.last_norm}")]
    middle = 0
    for theirs in (key_names.first, key_names.between, key_names.second):
        if theirs == key_names.between and not shape.middle:
            continue
        make = _attention if theirs == key_names.between else _residual
        rules += make(key_names, f"{name}.middle.{middle}", f"{name}.{theirs}", False)
        middle += 1
    levels = list(enumerate(shape.levels))
    number, before = 0, shape.width if name == "encoder" else shape.levels[-1][0]
    for level, (width, attends) in levels if name == "encoder" else levels[::-1]:
        path = key_names.level(name, level, len(levels))
        for block in range(shape.blocks + (name == "decoder")):
            rules += _residual(
                key_names,
                f"{name}.levels.{number}",
                f"{path}.{key_names.block.format(j=block)}",
                before != width,
            )
            number, before = number + 1, width
            if attends:
                rules += _attention(
                    key_names,
                    f"{name}.levels.{number}",
                    f"{path}.{key_names.attention.format(j=block)}",
                    False,
                )
                number += 1
        if level < len(levels) - 1 if name == "encoder" else level > 0:
            rules += layer(
                f"{name}.levels.{number}.conv",
                f"{path}.{key_names.smaller if name == 'encoder' else key_names.larger}",
            )
            number += 1
    return rules


def _residual(key_names: KeyNames, ours: str, theirs: str, widens: bool) -> list[KeyRule]:
    rules = [
        rule
        for one in ("norm1", "conv1", "norm2", "conv2")
        for rule in layer(f"{ours}.{one}", f"{theirs}.{one}")
    ]
    return rules + (layer(f"{ours}.skip", f"{theirs}.{key_names.skip}") if widens else [])


def _attention(key_names: KeyNames, ours: str, theirs: str, widens: bool) -> list[KeyRule]:
    return [
        *layer(f"{ours}.norm", f"{theirs}.{key_names.norm}"),
        *layer(
            f"{ours}.qkv", *(f"{theirs}.{one}" for one in key_names.qkv), change=key_names.change
        ),
        *layer(f"{ours}.out", f"{theirs}.{key_names.out}", change=key_names.change),
    ]


def _fits(key_names: KeyNames, shapes: Shapes, quantises: bool) -> bool:
    first = f"{key_names.level('encoder', 0, 1)}.{key_names.block.format(j=0)}.conv1.weight"
    return (
        first in shapes
        and "decoder.conv_in.weight" in shapes
        and ("quantize.embedding.weight" in shapes) == quantises
    )


def _body(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> dict[str, Any]:
    width, channels = shapes["encoder.conv_in.weight"][:2]
    pattern = re.escape(f"encoder.{key_names.down}").replace(r"\{i\}", r"(\d+)")
    levels = 1 + max(int(found[1]) for name in shapes if (found := re.match(pattern, name)))
    paths = [key_names.level("encoder", level, levels) for level in range(levels)]
    first, attention = key_names.block.format(j=0), key_names.attention.format(j=0)
    blocks = re.compile(re.escape(f"{paths[0]}.{key_names.block}").replace(r"\{j\}", r"(\d+)"))
    return {
        "width": width,
        "multipliers": tuple(shapes[f"{path}.{first}.conv1.weight"][0] // width for path in paths),
        "blocks": 1 + max(int(found[1]) for name in shapes if (found := blocks.match(name))),
        "channels": channels,
        "groups": declared.get("norm_num_groups", 32),
        "attention": tuple(
            2**i
            for i, path in enumerate(paths)
            if f"{path}.{attention}.{key_names.norm}.weight" in shapes
        ),
    }


def _kl(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> kl_config.Config:
    packed = "bn.running_mean" in shapes
    after = f"{key_names.packed_quant[1] if packed else 'post_quant_conv'}.weight"
    latent = shapes[after if after in shapes else "decoder.conv_in.weight"][1]
    side = math.isqrt(shapes["bn.running_mean"][0] // latent) if packed else 1
    return kl_config.Config(
        **_body(key_names, shapes, declared),
        latent_channels=latent,
        quant=after in shapes,
        packed=side,
    )


def _vq(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> vq_config.Config:
    codes, channels = shapes["quantize.embedding.weight"]
    hidden = shapes["decoder.conv_in.weight"][1]
    return vq_config.Config(
        **_body(key_names, shapes, declared),
        latent_channels=channels,
        hidden_channels=0 if hidden == channels else hidden,
        middle=f"encoder.{key_names.between}.{key_names.norm}.weight" in shapes,
        codebook=Codes(codes),
        legacy=True,
    )
