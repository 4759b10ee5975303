"""What files hold: the parts in them, each with the layout of its names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from safelight.config import kind_of
from safelight.errors import BadInput
from safelight.layouts import training_metadata
from safelight.layouts.config_values import checked
from safelight.layouts.key_mapping import Layout
from safelight.layouts.signatures import all_layouts as all_layouts
from safelight.layouts.signatures import matching
from safelight.types.shapes import Shape, Shapes
from safelight.weights.files import Weights
from safelight.weights.memory import LoadOptions

PREFIXES = {  # of names in single files → what stands under them
    "model.diffusion_model.": "denoiser",
    "first_stage_model.": "autoencoder",
    "vae.": "autoencoder",
    "cond_stage_model.transformer.": "tower",
    "cond_stage_model.model.": "tower",
    "cond_stage_model.": "conditioner",
    "conditioner.embedders.0.transformer.": "tower",
    "conditioner.embedders.0.model.": "tower",
    "conditioner.embedders.1.model.": "tower",
    "text_encoders.clip_l.transformer.": "tower",
    "text_encoders.clip_g.transformer.": "tower",
    "text_encoders.t5xxl.transformer.": "tower",
    "control_model.": "control",
}
SIGHT = ("visual.", "vision_model.", "visual_projection.")
"""Before the names of an image encoder, which the files of a whole CLIP hold beside its text
encoder."""
FIRST, CONDITION = "first_stage_model.", "cond_stage_model."
"""A picture to condition on may be encoded by the first stage itself, which then stands in a file
twice."""
EMA = "model_ema."
# of schedules and of training, at the top of a file: they follow from the family, or are marks
BUFFERS = re.compile(
    r"(low_scale_model\.)?(betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_alphas_cumprod|posterior_.*|logvar"
    r"|model_ema\.(decay|num_updates)|scale_factor|denoiser\.sigmas|lvlb_weights)|(first_stage_model\.)?loss\..*|"
    + "|".join(map(re.escape, training_metadata.NAMES))
)

QUANTISED = {  # names that stand beside weights which are not numbers by themselves
    r"(.*\.)?(scale_weight|weight_scale|scaled_fp8)": "fp8 with scales",
    r".*\.(absmax|quant_map|quant_state\..*)": "NF4 or int8 by bitsandbytes",
    r".*\.(SCB|weight_format)": "int8 by bitsandbytes",
    r".*\.(qweight|qzeros|wscales|comfy_quant)": "4 or 8 bits",
}


@dataclass(frozen=True, eq=False)
class DetectedPart:
    """A part as it stands in a file: ``weights`` by the bare names of its ``layout``."""

    part: str  # autoencoder, conditioner, control, denoiser, eye, image prompt, tower
    layout: Layout
    config: Any
    weights: Weights
    where: str  # the file, and the prefix in it
    declared: Mapping[str, Any]  # what a folder's configuration says of it
    tokenizer: Mapping[str, bytes] = field(
        default_factory=dict
    )  # of a text encoder: the files of its tokenizer
    again: Weights = field(
        default_factory=lambda: Weights({})
    )  # the same weights, which the file holds twice
    source: str = ""  # the file or folder that was given
    licence: str = ""  # that it states

    @property
    def kind(self) -> str:
        """The file of ours that the part becomes, as ``unet``."""
        return kind_of(self.config)

    def read_as(self, reading: LoadOptions) -> "DetectedPart":
        """The same, to be read so."""
        return replace(self, weights=replace(self.weights, reading=reading))


def detect_parts(
    weights: Weights, where: str, hints: Mapping[str, Any], ema: bool = False
) -> list[DetectedPart]:
    """All parts in a single file. BadInput if there is none, or if names stand in it that belong
    to no part.

    ``ema``: the running mean of a denoiser's weights, which training files hold beside the last
    ones, instead.
    """
    weights = unwrapped(weights, ema)
    if any(name.startswith(SIGHT[:2]) for name in weights):
        seeing = {name: one for name, one in weights.stored.items() if name.startswith(SIGHT)}
        reading = weights.without(*SIGHT, "logit_")
        others = detect_parts(weights.without(*SIGHT), where, hints, ema) if reading else []
        return [
            *others,
            detect_part(replace(weights, stored=seeing), where, hints, "image_encoder"),
        ]
    groups, rest = _grouped(weights)
    if ema and groups:
        groups = _with_means(groups, weights, where)
    if not groups:
        return [detect_part(weights, where, hints, hints.get("part"))]
    left = [name for name in rest if not name.startswith(EMA) and not BUFFERS.fullmatch(name)]
    if left:
        raise BadInput(
            f"{where}: {_some(left)} belong to no part that is known; take them out, or get "
            "another file."
        )
    twice = groups.keys() >= {FIRST, CONDITION} and groups[FIRST].shapes == groups[CONDITION].shapes
    again = groups.pop(CONDITION) if twice else Weights({})
    found = [detect_part(group, f"{where} ({prefix}*)", hints) for prefix, group in groups.items()]
    return [replace(one, again=again) if one.part == "autoencoder" else one for one in found]


def detect_part(
    weights: Weights, where: str, declared: Mapping[str, Any], part: str | None = None
) -> DetectedPart:
    """The one part that these names are; BadInput names the nearest kind and the first names that
    differ."""
    shapes = weights.shapes
    for pattern, kind in QUANTISED.items():
        if marked := next((name for name in shapes if re.fullmatch(pattern, name)), None):
            raise BadInput(
                f"{where} is quantised ({marked[:100]}: {kind}); take the fp16, bf16 or plain fp8 "
                "file of the model."
            )
    found = matching(shapes, part)
    if len(found) != 1:
        raise BadInput(f"{where}: {_nearest(shapes, found)}")
    declared = checked(declared, where)
    return DetectedPart(
        found[0].part, found[0], found[0].config(shapes, declared), weights, where, declared
    )


def detect_groups(shapes: Shapes) -> dict[str, Shapes]:
    """Names and shapes of the part under each prefix that occurs in a single file, by bare
    names."""
    prefixes = sorted(PREFIXES, key=len, reverse=True)
    groups: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is not None and not BUFFERS.fullmatch(name):
            groups.setdefault(prefix, {})[name.removeprefix(prefix)] = shape
    return {**groups}


def _grouped(weights: Weights) -> tuple[dict[str, Weights], list[str]]:
    """The tensors under each prefix that occurs, by bare names; and the names under none."""
    groups = detect_groups(weights.shapes)
    found = {
        prefix: Weights(
            {name: weights.stored[prefix + name] for name in groups[prefix]}, weights.metadata
        )
        for prefix in PREFIXES
        if prefix in groups
    }
    rest = [name for name in weights if not name.startswith(tuple(PREFIXES))]
    return found, rest


def unwrapped(weights: Weights, ema: bool) -> Weights:
    """What training files hold in ``state_dict``, or, as DiT's do, in ``model`` and its running
    mean in ``ema``."""
    for wrapper in ("state_dict.", "ema." if ema else "model."):
        inner = weights.under(wrapper)
        if inner and (wrapper == "state_dict." or weights.under("ema.")):
            return inner
    return weights


def _with_means(groups: Mapping[str, Weights], weights: Weights, where: str) -> dict[str, Weights]:
    """The groups with the denoiser's weights in their running mean, whose names have lost their
    dots."""
    prefix = "model.diffusion_model."
    raw = groups.get(prefix, Weights({}))
    means = {name: f"{EMA}diffusion_model{name.replace('.', '')}" for name in raw}
    if not raw or any(mean not in weights for mean in means.values()):
        raise BadInput(
            f"{where} holds no running mean of the denoiser's weights; load it with ema=no."
        )
    return {
        **groups,
        prefix: Weights({name: weights.stored[mean] for name, mean in means.items()}, raw.metadata),
    }


def _nearest(shapes: Shapes, found: Sequence[Layout]) -> str:
    """Why names are no part: several fit, or none, and then which is nearest and how it differs."""
    if found:
        kinds = ", ".join(f"{one.part} of {one.name}" for one in found)
        return f"its names fit more than one kind of part ({kinds}); say which by part."
    given = {_pattern(name) for name in shapes}
    scores = []
    for one in all_layouts():
        wanted = {_pattern(name) for rule in one.table(one.example).rules for name in rule.theirs}
        scores.append((len(given & wanted) / max(1, len(given | wanted)), one, wanted))
    likeness, nearest, wanted = max(scores, key=lambda score: score[0])
    example = f"{nearest.part} in the names of {nearest.name} ({kind_of(nearest.example)})"
    if likeness < 0.05:
        return (
            f"no known part has names like {_some(list(shapes))}; "
            "known are the layouts in docs/families.md."
        )
    missing, extra = sorted(wanted - given), sorted(given - wanted)
    differences = [
        f"{_some(names)} {what}"
        for names, what in ((missing, "missing"), (extra, "not expected"))
        if names
    ]
    return f"it fits no known part; nearest is the {example}: {', '.join(differences)}."


def _pattern(name: str) -> str:
    """A name with its numbers left open, so that depth does not matter."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:100] for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
