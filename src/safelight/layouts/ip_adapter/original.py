"""Image prompts as their authors wrote them: IP-Adapter and its descendants Plus, full, FaceID and
FaceID Plus (h94/IP-Adapter, h94/IP-Adapter-FaceID; .bin files nest the same names), and those of
FLUX, as x-labs calls their parts and as IP-Adapter does."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from safelight.adapters.image_prompt import Config
from safelight.adapters.image_tokens import LinearProjection, MlpProjection, Resampler
from safelight.errors import BadInput
from safelight.layouts.key_mapping import KeyMapping, KeyRule, Layout, layer
from safelight.types.shapes import Shapes

HEAD = 64
"""How wide a head of a resampler is, in every file there is."""
SINGLE = (("project", "proj"), ("norm", "norm"))
EACH = {
    "face": (("fc1", "proj.0"), ("fc2", "proj.2"), ("norm", "norm")),
    "states": (("fc1", "proj.0"), ("fc2", "proj.2"), ("norm", "proj.3")),
}
ENDS = (("proj_in", "proj_in"), ("proj_out", "proj_out"), ("norm", "norm_out"))
FACE = (("face.fc1", "proj.0"), ("face.fc2", "proj.2"), ("face.norm", "norm"))
BLOCK = {"norm1": "0.norm1", "norm2": "0.norm2", "norm3": "1.0"}
PLAIN = {"q": "0.to_q", "kv": "0.to_kv", "out": "0.to_out", "fc1": "1.1", "fc2": "1.3"}
LORA = r"ip_adapter\.\d+\.to_(q|k|v|out)_lora\.(down|up)\.weight"
"""What FaceID's files hold beside: a LoRA of the denoiser."""


class KeyNames(NamedTuple):
    """How a layout names the parts; ``{i}`` is an attention, ``{x}`` k or v. A file of ours has
    them at each ``step``-th number from ``start``: IP-Adapter's count self-attentions too."""

    name: str
    project: str
    attention: str
    start: int
    step: int
    bias: bool


OWN = KeyNames("ip-adapter", "image_proj.", "ip_adapter.{i}.to_{x}_ip", 1, 2, False)
XLABS = KeyNames(
    "x-labs",
    "ip_adapter_proj_model.",
    "double_blocks.{i}.processor.ip_adapter_double_stream_{x}_proj",
    0,
    1,
    True,
)
FLUX = KeyNames("ip-adapter-flux", "image_proj.", "ip_adapter.{i}.to_{x}_ip", 0, 1, True)


def config(key_names: KeyNames, shapes: Shapes, declared: Mapping[str, Any]) -> Config:
    """Which kind it is, and how wide everything in it. What no file tells, whether a FaceID Plus
    is of the second version, which adds its queries to its tokens, is ``declared`` as
    ``shortcut``; by default it is not.

    Raises BadInput for a projection of a kind that is not known.
    """
    own = {
        name.removeprefix(key_names.project): shape
        for name, shape in shapes.items()
        if name.startswith(key_names.project)
    }
    widths: list[int] = []
    while (name := _attention(key_names, len(widths), "k")) in shapes:
        widths.append(shapes[name][0])
    text_width = shapes[_attention(key_names, 0, "k")][1]
    return Config(_project(own, text_width, declared), tuple(widths), key_names.bias)


def _project(
    own: Shapes, text_width: int, declared: Mapping[str, Any]
) -> LinearProjection | MlpProjection | Resampler:
    if {"proj.weight", "norm.weight"} <= own.keys():
        wide, width = own["proj.weight"]
        return LinearProjection(width, wide // text_width, text_width)
    inside = "perceiver_resampler." if "perceiver_resampler.proj_in.weight" in own else ""
    if f"{inside}proj_in.weight" in own and f"{inside}layers.0.0.to_q.weight" in own:
        return _resampler(own, inside, text_width, declared)
    if {"proj.0.weight", "proj.2.weight"} <= own.keys() and {
        "norm.weight",
        "proj.3.weight",
    } & own.keys():
        hidden, width = own["proj.0.weight"]
        of: Literal["face", "states"] = "face" if "norm.weight" in own else "states"
        return MlpProjection(of, width, hidden, own["proj.2.weight"][0] // text_width, text_width)
    raise BadInput(
        f"an image prompt of a kind that is not known: {', '.join([*own][:4]) or 'nothing'} make "
        "its tokens; known are "
        "IP-Adapter, Plus, full, FaceID and FaceID Plus, and x-labs' for FLUX."
    )


def _resampler(own: Shapes, inside: str, text_width: int, declared: Mapping[str, Any]) -> Resampler:
    inner, width = own[f"{inside}proj_in.weight"]
    face_hidden, face = own["proj.0.weight"] if inside else (0, 0)
    return Resampler(
        width,
        inner,
        heads=own[f"{inside}layers.0.0.to_q.weight"][0] // HEAD,
        head_width=HEAD,
        depth=sum(name.endswith(".0.to_q.weight") for name in own),
        hidden=own[f"{inside}layers.0.1.1.weight"][0],
        tokens=own["proj.2.weight"][0] // inner if inside else own["latents"][1],
        text_width=text_width,
        face=face,
        face_hidden=face_hidden,
        shortcut=str(declared.get("shortcut", "no")).lower() in ("yes", "true", "1"),
    )


def table(key_names: KeyNames, config: Config) -> KeyMapping:
    """The rules; FaceID's LoRA, which is no part of this network, is read by itself."""
    made = config.project
    if isinstance(made, LinearProjection):
        rules = [
            rule
            for ours, theirs in SINGLE
            for rule in layer(f"project.{ours}", key_names.project + theirs)
        ]
    elif isinstance(made, MlpProjection):
        rules = [
            rule
            for ours, theirs in EACH[made.feature]
            for rule in layer(f"project.{ours}", key_names.project + theirs)
        ]
    else:
        rules = _resampling(made, key_names.project)
    for number in range(len(config.widths)):
        both = tuple(_attention(key_names, number, one).removesuffix(".weight") for one in "kv")
        rules += layer(f"kv.{number}", *both, bias=config.bias)
    return KeyMapping(tuple(rules), ignored=LORA)


def _resampling(made: Resampler, prefix: str) -> list[KeyRule]:
    inside = prefix + ("perceiver_resampler." if made.face else "")
    rules = [] if made.face else [KeyRule("project.queries", (f"{prefix}latents",))]
    for ours, theirs in FACE if made.face else ():
        rules += layer(f"project.{ours}", prefix + theirs)
    for ours, theirs in ENDS:
        rules += layer(f"project.{ours}", inside + theirs)
    for number in range(made.depth):
        mine, other = f"project.blocks.{number}.", f"{inside}layers.{number}."
        rules += [
            rule for ours, theirs in BLOCK.items() for rule in layer(mine + ours, other + theirs)
        ]
        rules += [
            KeyRule(f"{mine}{ours}.weight", (f"{other}{theirs}.weight",))
            for ours, theirs in PLAIN.items()
        ]
    return rules


def _attention(key_names: KeyNames, number: int, which: str) -> str:
    return (
        key_names.attention.format(i=key_names.start + key_names.step * number, x=which) + ".weight"
    )


def layout(key_names: KeyNames, example: Config) -> Layout:
    """The layout with these key names."""
    first, other = _attention(key_names, 0, "k"), _attention(FLUX, 0, "k")
    return Layout(
        key_names.name,
        "image prompt",
        lambda shapes: first in shapes and (first == other or other not in shapes),
        partial(config, key_names),
        partial(table, key_names),
        example=example,
    )


_SD1 = (*[320] * 2, *[640] * 2, *[1280] * 5, *[640] * 3, *[320] * 3, 1280)
LAYOUTS = (
    layout(OWN, Config(Resampler(), _SD1)),
    layout(XLABS, Config(LinearProjection(768, 4, 4096), (3072,) * 19, bias=True)),
    layout(FLUX, Config(LinearProjection(768, 4, 4096), (3072,) * 19, bias=True)),
)
