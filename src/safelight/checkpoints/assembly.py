"""Parts found in files → a model: each part built, what its family knows beside it, and what nobody has said."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from safelight import old_names
from safelight.checkpoints.native import load_strictly
from safelight.conditioners._encoder import PromptEncoder
from safelight.config import Slot
from safelight.diffusion.prediction import Noise, NoiseAndVariance
from safelight.diffusion.process import Process
from safelight.errors import BadInput, Note, unknown
from safelight.files import digest
from safelight.governance.licences import PartLicence, overridden
from safelight.layouts import text_families
from safelight.layouts.config_values import checked
from safelight.layouts.detection import Piece
from safelight.layouts.families import Family, families, family_of
from safelight.layouts.training_metadata import Marks
from safelight.model import Card, LatentDiffusion, licensed
from safelight.settings import Settings
from safelight.weights.memory import Reading
from safelight.weights.meta import hollow

HINTS = {
    "family": "which family the weights are of",
    "part": "what a bare file holds: autoencoder, denoiser, tower, control, eye",
    "prediction": "what the denoiser was taught: noise, v, clean, flow",
    "ema": "yes: the running mean of the weights where a file holds it beside the last ones",
    "scale": "the scale of the latents",
    "shift": "the shift of the latents",
    "axes": "how a head's channels turn with number, row and column (FLUX), as 16,56,56",
    "heads": "how many heads attend, where widths are unusual",
    "head_width": "how wide a head of a U-Net is, where widths are unusual",
    "text_head_width": "how wide a head of CLIP's text towers is, where widths are unusual",
    "embedders": "each: every block of a DiT has embedders of its own, as where diffusers trained it",
    "image_encoder_heads": "how many heads an image encoder has, where its width is unusual",
    "image_encoder_activation": "what is in an image encoder's MLPs: gelu or quick_gelu",
    "shortcut": "yes: an image prompt of FaceID Plus is of the second version",
    "licence": "the licence of the weights",
    "licence.autoencoder": "that of the autoencoder, where it is another",
    "licence.conditioner": "that of the text towers",
    "licence.denoiser": "that of the denoiser",
}
"""What the user may know better than a file."""


SINGLE = ("autoencoder", "conditioner", "denoiser", "control", "image_encoder", "image prompt")
"""The parts of which files hold one at most."""


@dataclass(frozen=True)
class Beside:
    """What a folder or file says beside its weights, in place of what the family would be taken to be."""

    process: Process | None = None
    settings: Settings = field(default_factory=Settings)
    scale: float | None = None
    shift: float | None = None
    name: str = ""
    marks: Marks = field(default_factory=Marks)


@dataclass(frozen=True, eq=False)
class Outline:
    """What the parts are together, before any weight is read. ``mean`` and ``deviation`` are the latents', of each
    channel or of all."""

    pieces: Mapping[str, Piece]  # by part; towers apart
    towers: tuple[Piece, ...]
    family: Family | None
    process: Process | None
    card: Card
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    @property
    def bytes(self) -> int:
        """What all weights take in memory as they are."""
        return sum(one.weights.bytes for one in (*self.pieces.values(), *self.towers))

    def read_as(self, reading: Reading) -> "Outline":
        """The same, to be read so."""
        pieces = {part: one.read_as(reading) for part, one in self.pieces.items()}
        return replace(
            self, pieces=pieces, towers=tuple(one.read_as(reading) for one in self.towers)
        )


def outline(pieces: Sequence[Piece], hints: Mapping[str, Any], beside: Beside) -> Outline:
    """What the parts are together: as the user says, else a folder, else the family.

    Raises BadInput if two files hold the same part, or if the family has no such prediction.
    """
    single = {part: one for part in SINGLE if (one := _single(part, pieces))}
    family = _family(
        single.get("denoiser"), hints, {*beside.marks.names, *(piece.kind for piece in pieces)}
    )
    assumed: dict[str, Any] = {}
    process = beside.process
    if family is not None and (process is None or "prediction" in hints):
        said = hints.get("prediction", _taught(single.get("denoiser")))
        process = family.process(said)
        unsure = "prediction" in family.unsure and said is None
        assumed |= {"prediction": family.prediction} if unsure else {}
        schedule = beside.marks.schedule(process.schedule)
        process = replace(process, schedule=schedule or process.schedule)
        assumed |= {} if schedule else {"schedule": family.schedule}
    if (
        process is not None
        and process.prediction == Noise()
        and _learns_variance(single.get("denoiser"))
    ):
        process = replace(process, prediction=NoiseAndVariance())
    assumed |= {"ema": "no"} if beside.marks.means and "ema" not in hints else {}
    scale, shift = _scale(single.get("autoencoder"), family, hints, beside, assumed)
    towers = tuple(piece for piece in pieces if piece.part == "tower")
    card = _card(family, pieces, hints, beside, assumed)
    if side := _side(single.get("denoiser"), single.get("autoencoder")):
        card = replace(card, size=(side, side))
    if lacking := _lacking(family, single, towers):
        card = replace(card, origin={**card.origin, "lacking": lacking})
    mean, spread = beside.marks.mean or (shift,), beside.marks.spread or (1.0,)
    channels = (
        single["autoencoder"].config.latent_channels if "autoencoder" in single else len(mean)
    )
    if not {len(mean), len(spread)} <= {1, channels} or not all(one > 0 for one in spread):
        raise BadInput(
            f"wanted a mean and a spread above 0 for each of {channels} latent channels, got {mean}, {spread}."
        )
    return Outline(
        single, towers, family, process, card, mean, tuple(one / scale for one in spread)
    )


def assemble(plan: Outline) -> LatentDiffusion:
    """The model that the parts are, in the precision that they are read in; a part that no file holds is None."""
    parts: dict[str, Any] = {}
    if "control" in plan.pieces:
        where = plan.pieces["control"].where
        warnings.warn(
            f"{where} is left out: it controls by a picture, which --control names.",
            Note,
            stacklevel=2,
        )
    if "image prompt" in plan.pieces:
        raise BadInput(
            f"{plan.pieces['image prompt'].where} is an image prompt, no part of a model: give it beside one, with a "
            "picture (--image-prompt FILE=PICTURE)."
        )
    if "denoiser" in plan.pieces:
        parts["denoiser"] = build(plan.pieces["denoiser"])
    if "autoencoder" in plan.pieces:
        piece = plan.pieces["autoencoder"]
        kept = {
            "scale.mean": torch.tensor(plan.mean),
            "scale.deviation": torch.tensor(plan.deviation),
        }
        like = (piece.config.latent_channels,)
        parts["autoencoder"] = build(
            piece, {name: one.expand(like).clone() for name, one in kept.items()}
        )
    if "conditioner" in plan.pieces:
        parts["conditioner"] = build(plan.pieces["conditioner"])
    elif plan.towers and plan.family and plan.family.text:
        parts["conditioner"] = reading(plan.family, plan.towers, plan.pieces.get("denoiser"))
    elif "denoiser" in plan.pieces and plan.family and plan.family.conditioner:
        parts["conditioner"] = _weightless(plan.family.conditioner, plan.pieces["denoiser"].config)
    if "image_encoder" in plan.pieces:
        parts["image_encoder"] = build(plan.pieces["image_encoder"])
    return LatentDiffusion(**parts, process=plan.process, card=plan.card)


def build(piece: Piece, given: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The part with its weights as they are in the file, in their precision.

    ``given``: what files of this layout do not hold, by our names. Raises BadInput if names or shapes do not fit.
    """
    for name in piece.again:
        if not piece.again[name].equal(piece.weights[name]):
            raise BadInput(
                f"{piece.where} stands in its file twice, and {name} is not the same; take the other out."
            )
    module: nn.Module = hollow(piece.config.build)
    table = piece.layout.table(piece.config)
    wanted = module.state_dict()
    state = _made(wanted) | {name: one for name, one in (given or {}).items() if name in wanted}
    state |= table.read(piece.weights, wanted, piece.where)
    load_strictly(module, state, piece.where, assign=True)
    return module


def _made(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a hollow module holds already."""
    return {name: tensor for name, tensor in state.items() if tensor.device.type != "meta"}


def reading(family: Family, towers: Sequence[Piece], denoiser: Piece | None) -> nn.Module | None:
    """The conditioner that these text towers are; None if one that the family needs is in none of the files.

    A T5 may be missing where other towers give tokens as well. Where a family has two of CLIP's towers, the narrower
    comes first.
    """
    kinds = text_families.kinds(family.text)
    narrow = sorted(towers, key=lambda one: int(one.config.width))
    named = {kind: NETWORKS.get(kind, kind) for kind in kinds}
    by_kind = {
        kind: [one for one in narrow if one.kind == kind] for kind in (one.kind for one in towers)
    }
    found = [left.pop(0) if (left := by_kind.get(named[kind])) else None for kind in kinds]
    if unread := [one for left in by_kind.values() for one in left]:
        raise BadInput(
            f"{unread[0].where} is a text tower that {family.title} does not read; leave it out."
        )
    if any(one is None and kind != "t5" for one, kind in zip(found, kinds, strict=True)):
        return None
    wide = 4096 if denoiser is None else denoiser.config.text_width
    config = text_families.joined(
        family.text, [None if one is None else one.config for one in found], wide
    )
    if all(tower.missing for tower in config.encoders if tower.group is not None):
        return None
    if (
        config.size_conditions and denoiser is not None
    ):  # the denoiser takes in what the pooled vectors leave of its width
        pooled = sum(one.network.projection for one in config.encoders if one.pooled == "projected")
        numbers = sum(1 if one == "aesthetic_score" else 2 for one in config.size_conditions)
        config = replace(config, frequencies=(denoiser.config.vector_width - pooled) // numbers)
    module = hollow(config.build)
    readers = cast("list[PromptEncoder]", module.encoders)
    state = _made(module.state_dict())
    for number, one in enumerate(found):
        if one is not None:
            reader = readers[number]
            assert reader.network is not None
            if one.tokenizer and reader.config.tokenizer != "ids":
                reader.tokenizer.load_files(one.tokenizer, one.where)
            table = one.layout.table(one.config).read(
                one.weights, reader.network.state_dict(), one.where
            )
            state |= {f"encoders.{number}.network.{name}": tensor for name, tensor in table}
            state[f"encoders.{number}.tokenizer._extra_state"] = reader.tokenizer.get_extra_state()
    load_strictly(
        module, state, " and ".join(one.where for one in found if one is not None), assign=True
    )
    return module


def _weightless(conditioner: Mapping[str, Any], denoiser: Any) -> nn.Module:
    """A conditioner that no file holds, for as many classes as the denoiser knows."""
    classes = {"classes": vars(denoiser)["classes"]} if "numeric_labels" in conditioner else {}
    made: nn.Module = Slot("conditioners").read({**conditioner, **classes}).build()
    return made


def understood(hints: Mapping[str, Any]) -> dict[str, Any]:
    """The hints, their numbers as numbers; BadInput for one that means nothing."""
    hints = old_names.TABLE.options("hint", hints)
    for name in hints:
        if name not in HINTS:
            raise unknown("hint", name, HINTS)
    found = checked(hints, "hint")
    if "family" in found and found["family"] not in families():
        raise unknown("family", hints["family"], families())
    return found


def fingerprint(pieces: Sequence[Piece]) -> str:
    """Which weights the parts are together (``Weights.fingerprint``), in whatever order they were named."""
    return digest(sorted(f"{one.part} {one.weights.fingerprint}" for one in pieces))


def _single(part: str, pieces: Sequence[Piece]) -> Piece | None:
    found = [piece for piece in pieces if piece.part == part]
    if len(found) > 1:
        files, article = (
            " and ".join(one.where for one in found),
            "an" if part[0] in "aeiou" else "a",
        )
        raise BadInput(
            f"{files} both hold {article} {part}; give one of them, or a lone autoencoder last."
        )
    return found[0] if found else None


def _family(
    denoiser: Piece | None, hints: Mapping[str, Any], beside: Collection[str]
) -> Family | None:
    if "family" in hints:
        family = families()[str(hints["family"])]
        if denoiser is not None and denoiser.kind != family.fits["kind"]:
            raise BadInput(
                f"hint family: {denoiser.where} holds a {denoiser.kind}, that of {family.title} is a "
                f"{family.fits['kind']}; leave the hint out, or name another."
            )
        return family
    return None if denoiser is None else family_of(denoiser.kind, denoiser.config, beside)


def _taught(denoiser: Piece | None) -> str | None:
    """What the denoiser was taught, as its file's metadata has it (modelspec); None if it does not say."""
    metadata = {} if denoiser is None else denoiser.weights.metadata
    return {"v": "v", "epsilon": "noise"}.get(metadata.get("modelspec.prediction_type", ""))


NETWORKS = {"mistral": "decoder", "qwen": "decoder"}
"""By the words that a tower reads, its kind, where that is another."""


def _lacking(
    family: Family | None, single: Mapping[str, Piece], towers: Sequence[Piece]
) -> dict[str, str]:
    """The parts that the denoiser's family has besides, and the files that usually hold them."""
    if family is None or "denoiser" not in single:
        return {}
    lacking = {} if "autoencoder" in single else {"autoencoder": str(family.files["autoencoder"])}
    wanted = [
        NETWORKS.get(words, words)
        for words in (text_families.kinds(family.text) if family.text else ())
    ]
    held = [one.kind for one in towers]
    names = [
        str(name)
        for name, kind in zip(family.files.get("towers", ()), wanted, strict=True)
        if held.count(kind) < wanted.count(kind)
    ]
    return lacking | ({"conditioner": " and ".join(names)} if names else {})


def _side(denoiser: Piece | None, autoencoder: Piece | None) -> int | None:
    """The side of the pictures that a folder's denoiser was made for."""
    side = None if denoiser is None else denoiser.said.get("sample_size")
    pyramid = None if autoencoder is None else vars(autoencoder.config).get("multipliers")
    factor = 8 if pyramid is None else 2 ** (len(pyramid) - 1)
    return side * factor if isinstance(side, int) and side * factor <= LARGEST else None


def _learns_variance(denoiser: Piece | None) -> bool:
    return denoiser is not None and vars(denoiser.config).get("variance") == "learned"


LARGEST = 4096  # pixels of a side that a folder may make usual

SCALES = {(4, True): "sd1", (16, False): "flux-dev"}
"""By latent channels and quant convolutions: whose scale a lone KL autoencoder is taken to have."""


def _scale(
    piece: Piece | None,
    family: Family | None,
    hints: Mapping[str, Any],
    beside: Beside,
    assumed: dict[str, Any],
) -> tuple[float, float]:
    """Scale and shift of the latents: as the user says, else a folder, else the family, else the likeliest one."""
    if piece is not None and family is None and "quant" in vars(piece.config):
        family = families().get(SCALES.get((piece.config.latent_channels, piece.config.quant), ""))
        assumed |= (
            {"latents of": family.name}
            if family and beside.scale is None and "scale" not in hints
            else {}
        )
    known = (family.scale, family.shift) if family else (1.0, 0.0)
    said = (hints.get("scale", beside.scale), hints.get("shift", beside.shift))
    scale, shift = (ours if one is None else one for one, ours in zip(said, known, strict=True))
    return scale, shift


def _card(
    family: Family | None,
    pieces: Sequence[Piece],
    hints: Mapping[str, Any],
    beside: Beside,
    assumed: dict[str, Any],
) -> Card:
    """What is known of the model, and in ``origin`` what was only taken to be so."""
    metadata = {key: value for piece in pieces for key, value in piece.weights.metadata.items()}
    files, names = (
        [piece.where for piece in pieces],
        sorted({piece.layout.name for piece in pieces}),
    )
    origin: dict[str, Any] = {"files": files, "fingerprint": fingerprint(pieces), "layout": names}
    origin |= {"family": family.name} if family else {}
    origin |= {"hints": dict(hints)} if hints else {}
    origin |= {"assumed": assumed} if assumed else {}
    settings = beside.settings.over(family.settings) if family else beside.settings
    size = family.size if family else 512
    name = (
        metadata.get("modelspec.title")
        or beside.name
        or (family.title if family else pieces[0].where)
    )
    card = Card(name=name, size=(size, size), settings=settings, origin=origin)
    return licensed(card, _licences(family, pieces, hints))


TOWERS = {
    "clip": "CLIP: MIT",
    "clip-vision": "CLIP: MIT",
    "t5": "T5: Apache-2.0",
    "decoder": "Mistral Small 3 and Qwen 3: Apache-2.0",
}
"""Towers, and eyes, in files of their own, by kind: whose they are, and the licence of those."""


def _licences(
    family: Family | None, pieces: Sequence[Piece], hints: Mapping[str, Any]
) -> list[PartLicence]:
    """The licence of each part: as the user says, else its file; else what it usually is."""
    found = []
    denoiser = next((one.source for one in pieces if one.part == "denoiser"), "")
    for one in pieces:
        usual = f"{family.title}: {family.licence}" if family else ""
        if one.part == "image_encoder" or (one.part == "tower" and one.source != denoiser):
            usual = TOWERS.get(one.kind, "")
        found.append(
            PartLicence(
                "conditioner" if one.part == "tower" else one.part, one.source, one.licence, usual
            )
        )
    return overridden(found, hints)
