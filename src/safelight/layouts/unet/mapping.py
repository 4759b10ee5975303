"""The U-Net in other layouts: the names of each layout in a table, one mapping for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from safelight.denoisers.unet.config import Config, Level, Norm
from safelight.errors import BadInput
from safelight.layouts.config_values import alone
from safelight.layouts.key_mapping import (
    SAME,
    Chain,
    HeadsFirst,
    KeyMapping,
    KeyRule,
    Pointwise,
    Swapped,
    TensorTransform,
    Transposed,
    layer,
)
from safelight.types.shapes import Shapes


@dataclass(frozen=True)
class KeyNames:
    """How a layout names the parts of a U-Net. In paths, ``{n}`` counts a way's parts (from 1 on
    the way down), ``{level}`` its levels from the widest picture, ``{stage}`` from the smallest,
    ``{block}`` a level's blocks, and ``{last}`` is the place behind a block and its attention."""

    enter: str
    time: tuple[str, str]
    vector: tuple[str, str]
    classes: str
    guidance: str
    norm: str
    leave: str
    down: str
    down_attention: str
    smaller: str
    up: str
    up_attention: str
    larger: str
    middle: tuple[str, str, str]
    residual: tuple[
        str, str, str, str, str, str
    ]  # norm, convolution, time, norm, convolution, skip
    resize: tuple[
        str, str
    ]  # the convolution of what only changes the size, behind ``smaller`` and ``larger``
    plain: tuple[str, str]  # plain attention: norm, out
    qkv: tuple[str, ...]  # one with its rows head by head, or three

    def place(
        self, path: str, number: int, level: int, block: int, levels: int, last: int = 0
    ) -> str:
        """A path with its numbers."""
        return path.format(n=number, level=level, stage=levels - 1 - level, block=block, last=last)


def table(key_names: KeyNames, config: Config) -> KeyMapping:
    """The rules of a whole U-Net."""
    rules = encoder(key_names, config)
    levels, number = len(config.levels), 0
    left = [before for before, _, _ in _down(config)] + [config.levels[-1].width]
    before, flat = config.levels[-1].width, 0
    for level, one in reversed(list(enumerate(config.levels))):
        for block in range(config.blocks + 1):
            ours, place = f"up.{number}", (flat, level, block, levels)
            rules += _residual(
                key_names,
                f"{ours}.residual",
                key_names.place(key_names.up, *place),
                before + left.pop() != one.width,
            )
            theirs = key_names.place(key_names.up_attention, *place)
            rules += _attention(key_names, config, one.rising(block), f"{ours}.attention", theirs)
            before, number, flat = one.width, number + 1, flat + 1
        if level:
            last = 2 if one.rising(config.blocks).depth else 1
            theirs = key_names.place(key_names.larger, flat - 1, level, config.blocks, levels, last)
            rules += _resize(key_names, config, f"up.{number}", theirs, key_names.resize[1])
            number += 1
    rules += [*layer("norm", key_names.norm), *layer("leave", key_names.leave)]
    return KeyMapping(tuple(rules), ignored="decay|num_updates")


def encoder(key_names: KeyNames, config: Config, ours: str = "encoder") -> list[KeyRule]:
    """The rules of what a U-Net shares with a branch that controls it: the way down and the
    middle."""
    rules = layer(f"{ours}.enter", key_names.enter)
    for mine, theirs in zip(("first", "second"), key_names.time, strict=True):
        rules += layer(f"{ours}.time.{mine}", theirs)
    if config.vector_width:
        for number, theirs in zip((0, 2), key_names.vector, strict=True):
            rules += layer(f"{ours}.vector.{number}", theirs)
    if config.classes:
        rules += layer(f"{ours}.classes", key_names.classes, bias=False)
    if config.guidance:  # theirs multiplies sines, then cosines
        halves = Chain((Transposed(), Swapped(), Transposed()))
        rules += layer(f"{ours}.guidance", key_names.guidance, bias=False, change=halves)
    for number, (before, level, block) in enumerate(_down(config)):
        one, place = config.levels[level], (number + 1, level, block, len(config.levels))
        if block == config.blocks:
            theirs = key_names.place(key_names.smaller, *place)
            rules += _resize(
                key_names, config, f"{ours}.down.{number}", theirs, key_names.resize[0]
            )
            continue
        theirs = key_names.place(key_names.down, *place)
        rules += _residual(key_names, f"{ours}.down.{number}.residual", theirs, before != one.width)
        theirs = key_names.place(key_names.down_attention, *place)
        rules += _attention(key_names, config, one, f"{ours}.down.{number}.attention", theirs)
    first, between, second = key_names.middle
    rules += _residual(key_names, f"{ours}.middle.residual", first, False)
    if config.middle < 0:
        return rules
    middle = Level(config.levels[-1].width, config.middle, config.levels[-1].heads)
    rules += _attention(key_names, config, middle, f"{ours}.middle.attention", between)
    return rules + _residual(key_names, f"{ours}.after", second, False)


def _down(config: Config) -> list[tuple[int, int, int]]:
    """The width before, the level and the block of each part of the way down; the block after the
    last is the change of size."""
    parts, before = [], config.levels[0].width
    for level, one in enumerate(config.levels):
        for block in range(config.blocks + (level < len(config.levels) - 1)):
            parts.append((before, level, block))
            before = one.width
    return parts


def _residual(key_names: KeyNames, ours: str, theirs: str, widens: bool) -> list[KeyRule]:
    names = ("norm1", "conv1", "time", "norm2", "conv2", "skip")
    pairs = list(zip(names, key_names.residual, strict=True))[: 6 if widens else 5]
    return [rule for mine, word in pairs for rule in layer(f"{ours}.{mine}", f"{theirs}.{word}")]


def _resize(
    key_names: KeyNames, config: Config, ours: str, theirs: str, word: str
) -> list[KeyRule]:
    if config.residual_resize:
        return _residual(key_names, f"{ours}.residual", theirs, False)
    return layer(f"{ours}.conv", f"{theirs}.{word}")


def _attention(
    key_names: KeyNames, config: Config, level: Level, ours: str, theirs: str
) -> list[KeyRule]:
    if not level.depth:
        return []
    if not config.text_width:
        return _plain(key_names, level, ours, theirs)
    change = SAME if config.linear else Pointwise()
    rules = [
        *layer(f"{ours}.norm", f"{theirs}.norm"),
        *layer(f"{ours}.enter", f"{theirs}.proj_in", change=change),
    ]
    for number in range(level.depth):
        rules += _transformer(
            f"{ours}.blocks.{number}", f"{theirs}.transformer_blocks.{number}", level.text_only
        )
    return rules + layer(f"{ours}.leave", f"{theirs}.proj_out", change=change)


def _transformer(ours: str, theirs: str, text_only: bool) -> list[KeyRule]:
    """The rules of a transformer block, whose names are the same in all layouts."""
    rules = [
        rule
        for one in ("norm1", "norm2", "norm3")
        for rule in layer(f"{ours}.{one}", f"{theirs}.{one}")
    ]
    for mine, word, asks in (
        ("text" if text_only else "attention", "attn1", text_only),
        ("cross", "attn2", True),
    ):
        q, k, v = (f"{theirs}.{word}.to_{one}" for one in "qkv")
        if asks:
            rules += [
                *layer(f"{ours}.{mine}.q", q, bias=False),
                *layer(f"{ours}.{mine}.kv", k, v, bias=False),
            ]
        else:
            rules += layer(f"{ours}.{mine}.qkv", q, k, v, bias=False)
        rules += layer(f"{ours}.{mine}.out", f"{theirs}.{word}.to_out.0")
    rules += layer(f"{ours}.mlp.enter", f"{theirs}.ff.net.0.proj")
    return rules + layer(f"{ours}.mlp.leave", f"{theirs}.ff.net.2")


def _plain(key_names: KeyNames, level: Level, ours: str, theirs: str) -> list[KeyRule]:
    norm, out = key_names.plain
    rules = layer(f"{ours}.norm", f"{theirs}.{norm}")
    if len(key_names.qkv) > 1:
        rules += layer(f"{ours}.qkv", *(f"{theirs}.{one}" for one in key_names.qkv))
        return rules + layer(f"{ours}.leave", f"{theirs}.{out}")
    heads: TensorTransform = HeadsFirst(level.heads)
    rules.append(
        KeyRule(
            f"{ours}.qkv.weight",
            (f"{theirs}.{key_names.qkv[0]}.weight",),
            Chain((Pointwise(1), heads)),
        )
    )
    rules.append(KeyRule(f"{ours}.qkv.bias", (f"{theirs}.{key_names.qkv[0]}.bias",), heads))
    return rules + layer(f"{ours}.leave", f"{theirs}.{out}", change=Pointwise(1))


def infer(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """Our configuration of a file's names and shapes, with these key names.

    ``declared`` may tell what shapes cannot: ``heads`` (one number, or one for each level) or
    ``head_width``, ``groups``, ``eps``, ``text_only`` (for each level). Else: 32 groups; heads 64
    wide between linear layers and 32 wide in plain attention, 8 heads between convolutions, but
    for those public models of latent diffusion in ``PUBLIC``.
    """
    _, conv1, time = key_names.residual[:3]
    blocks, resizes = _blocks(key_names, shapes, conv1)
    found, number = [], 1
    for level in count():
        paths = [
            key_names.place(one, number, level, 0, level + 1)
            for one in (key_names.down, key_names.down_attention)
        ]
        if f"{paths[0]}.{conv1}.weight" not in shapes:
            break
        found.append(
            (shapes[f"{paths[0]}.{conv1}.weight"][0], _depth(key_names, shapes, paths[1]), paths[1])
        )
        number += blocks + 1
    first = key_names.place(key_names.down, 1, 0, 0, 1)
    middle = key_names.middle[1]
    attends = [path for _, depth, path in found if depth] + [middle]
    known = {
        path: shapes.get(f"{path}.transformer_blocks.0.attn2.to_k.weight", (0, 0))[1]
        for path in attends
    }
    text_width, linear = (
        max(known.values()),
        len(shapes.get(f"{attends[0]}.proj_in.weight", (0, 0))) == 2,
    )
    widths = tuple(width for width, _, _ in found)
    heads = _heads(widths, text_width, linear, bool(resizes), declared)
    only = declared.get("text_only", [_asks_text(shapes, path, text_width) for _, _, path in found])
    if len(only) != len(found):
        raise BadInput(
            f"only_cross_attention: wanted one answer for each of {len(found)} levels, got {only}."
        )
    ups = [
        _rises(key_names, shapes, level, blocks, [one[1] for one in found])
        for level in range(len(found))
    ]
    channels, vector = (
        shapes[f"{key_names.leave}.weight"][0] if f"{key_names.leave}.weight" in shapes else 0,
        key_names.vector[0],
    )
    taken = shapes[f"{key_names.enter}.weight"][1]
    return Config(
        channels=channels or taken,
        extra_channels=taken - channels if channels else 0,
        levels=tuple(
            Level(width, depth, each, depth > 0 and text, up)
            for (width, depth, _), each, text, up in zip(found, heads, only, ups, strict=True)
        ),
        blocks=blocks,
        middle=_depth(key_names, shapes, middle)
        if f"{key_names.middle[2]}.{conv1}.weight" in shapes
        else -1,
        text_width=text_width,
        vector_width=shapes.get(f"{vector}.weight", (0, 0))[1],
        classes=shapes.get(f"{key_names.classes}.weight", (0,))[0],
        guidance=shapes.get(f"{key_names.guidance}.weight", (0, 0))[1],
        norm=Norm(
            declared.get("groups", 32),
            declared.get("eps", 1e-5),
            shapes[f"{first}.{time}.weight"][0] == 2 * widths[0],
        ),
        linear=linear,
        residual_resize=resizes,
    )


def _rises(
    key_names: KeyNames, shapes: Shapes, level: int, blocks: int, depths: Sequence[int]
) -> tuple[int, ...]:
    """How deep a level's blocks are on the way up, where there is one and they are not as on the
    way down."""
    first, levels = (len(depths) - 1 - level) * (blocks + 1), len(depths)
    places = [
        key_names.place(key_names.up_attention, first + block, level, block, levels)
        for block in range(blocks + 1)
    ]
    up = tuple(_depth(key_names, shapes, place) for place in places)
    return () if f"{key_names.leave}.weight" not in shapes or set(up) == {depths[level]} else up


def _blocks(key_names: KeyNames, shapes: Shapes, conv1: str) -> tuple[int, bool]:
    """How many residual blocks a level has, and whether others change the size."""
    for last in (1, 2):  # behind a block alone, or behind its attention
        for number in range(64):
            theirs = key_names.place(key_names.larger, number, 0, number, 1, last)
            if f"{theirs}.{conv1}.weight" in shapes and "{n}" in key_names.larger:
                return number, True
    number = 0
    while f"{key_names.place(key_names.down, number + 1, 0, number, 1)}.{conv1}.weight" in shapes:
        number += 1
    return (
        number,
        f"{key_names.place(key_names.smaller, number + 1, 0, number, 1)}.{conv1}.weight" in shapes,
    )


def _depth(key_names: KeyNames, shapes: Shapes, path: str) -> int:
    """How many transformer blocks lie at ``path``; plain attention counts as one."""
    depth = next(
        one for one in count() if f"{path}.transformer_blocks.{one}.norm1.weight" not in shapes
    )
    return depth or int(f"{path}.{key_names.plain[0]}.weight" in shapes)


def _asks_text(shapes: Shapes, path: str, text_width: int) -> bool:
    """Whether the first attention of a transformer asks the text; where both are as wide, that it
    does not."""
    out, keys_from = shapes.get(f"{path}.transformer_blocks.0.attn1.to_k.weight", (0, 0))
    return keys_from != out and keys_from == text_width


PUBLIC: Mapping[tuple[tuple[int, ...], int], int] = {
    ((192, 384, 576, 960), 512): 1,
    ((128, 512, 1024), 0): 8,
    ((256, 512, 512, 1024), 1024): 8,
    ((256, 512, 1024), 512): -32,
    ((128, 256, 384, 512), 512): -32,
    ((192, 384, 576, 960), 640): -32,
    ((448, 896, 1344, 1792), 768): -32,
}
"""Heads, or below 0 their width, of published models by widths and text width (the configurations
in CompVis/ latent-diffusion): cin256-v2, semantic synthesis, Stable Diffusion's ×4 upscaler,
cin256, layout2img, text2img256, retrieval-augmented 768×768."""


def _heads(
    widths: tuple[int, ...],
    text_width: int,
    linear: bool,
    resizes: bool,
    declared: Mapping[str, Any],
) -> tuple[int, ...]:
    """The heads of each level, as said or by convention."""
    usual = (-64 if linear else 8) if text_width else 8 if resizes else -32
    chosen = declared.get("heads", PUBLIC.get((widths, text_width), usual))
    if "head_width" in declared:
        chosen = -alone(declared, "head_width", 1)
    each = tuple(chosen) if isinstance(chosen, list | tuple) else (chosen,) * len(widths)
    if len(each) != len(widths):
        raise BadInput(
            f"heads: wanted one number, or one for each of {len(widths)} levels, got {each}."
        )
    return tuple(
        one if one > 0 else max(1, width // -one) for one, width in zip(each, widths, strict=True)
    )
