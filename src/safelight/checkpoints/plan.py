"""What the parts found in files are together, decided from headers alone: the plan of a load."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.card import Card, licensed
from safelight.checkpoints.hints import check_hints
from safelight.checkpoints.parts import FolderMetadata, find_parts
from safelight.errors import BadInput
from safelight.files import digest
from safelight.governance.licences import PartLicence, overridden
from safelight.layouts import text_families
from safelight.layouts.detection import DetectedPart
from safelight.layouts.families import Family, families, family_of
from safelight.weights.memory import LoadOptions

if TYPE_CHECKING:
    from safelight.diffusion.process import Process

SINGLE = ("autoencoder", "conditioner", "denoiser", "control", "image_encoder", "image prompt")
"""The parts of which a model has at most one."""

MAX_SIDE = 4096
"""The largest native size, in pixels, that is taken from a folder."""

KL_SCALES = {(4, True): "sd1", (16, False): "flux-dev"}
"""The family whose scale a KL autoencoder alone is assumed to have, by its latent channels and
whether it has quant convolutions."""

TEXT_MODELS = {"mistral": "decoder", "qwen": "decoder"}
"""The kind of text model, where it is not called as its tokenizer is."""

SHARED_LICENCES = {
    "clip": "CLIP: MIT",
    "clip-vision": "CLIP: MIT",
    "t5": "T5: Apache-2.0",
    "decoder": "Mistral Small 3 and Qwen 3: Apache-2.0",
}
"""The usual licence of text and image encoders in files of their own, by kind."""


@dataclass(frozen=True, eq=False)
class LoadPlan:
    """What will be built, before any weight is read.

    ``parts`` are by name, without the text encoders, which are in ``encoders``. ``mean`` and
    ``deviation`` are those of the latents, for each channel or for all.
    """

    parts: Mapping[str, DetectedPart]
    encoders: tuple[DetectedPart, ...]
    family: Family | None
    process: "Process | None"
    card: Card
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    @property
    def bytes(self) -> int:
        """The size of all weights in the precision of the files."""
        return sum(part.weights.bytes for part in (*self.parts.values(), *self.encoders))

    def read_as(self, options: LoadOptions) -> "LoadPlan":
        """The same plan, its weights to be read with other options."""
        parts = {name: part.read_as(options) for name, part in self.parts.items()}
        encoders = tuple(part.read_as(options) for part in self.encoders)
        return replace(self, parts=parts, encoders=encoders)


def plan_load(paths: Sequence[Path], hints: Mapping[str, Any]) -> LoadPlan:
    """What these files and folders are together.

    The user's hints decide, then what a folder or file states, then what its family usually has.
    BadInput if two files hold the same part, or the hints do not fit.
    """
    hints = check_hints(hints)
    parts, metadata = find_parts(paths, hints)
    single = {name: part for name in SINGLE if (part := _only(name, parts))}
    encoders = tuple(part for part in parts if part.part == "tower")
    denoiser, autoencoder = single.get("denoiser"), single.get("autoencoder")
    family = _family(denoiser, hints, {*metadata.training.names, *(part.kind for part in parts)})
    assumed: dict[str, Any] = {}
    process = _process(denoiser, family, hints, metadata, assumed)
    if metadata.training.means and "ema" not in hints:
        assumed["ema"] = "no"
    mean, deviation = _latents(autoencoder, family, hints, metadata, assumed)
    card = _card(family, parts, hints, metadata, assumed)
    if side := _native_side(denoiser, autoencoder):
        card = replace(card, size=(side, side))
    if lacking := _lacking(family, single, encoders):
        card = replace(card, origin={**card.origin, "lacking": lacking})
    return LoadPlan(single, encoders, family, process, card, mean, deviation)


def fingerprint(parts: Sequence[DetectedPart]) -> str:
    """One hash of the weights of all parts (``Weights.fingerprint``), in any order."""
    return digest(sorted(f"{part.part} {part.weights.fingerprint}" for part in parts))


def _only(name: str, parts: Sequence[DetectedPart]) -> DetectedPart | None:
    """The part of that name; BadInput if there are two."""
    candidates = [part for part in parts if part.part == name]
    if len(candidates) > 1:
        files = " and ".join(part.where for part in candidates)
        article = "an" if name[0] in "aeiou" else "a"
        raise BadInput(
            f"{files} both hold {article} {name}; give one of them, or a lone autoencoder last."
        )
    return candidates[0] if candidates else None


def _family(
    denoiser: DetectedPart | None, hints: Mapping[str, Any], markers: Collection[str]
) -> Family | None:
    """The family of the hints, or that of the denoiser and what its files hold besides."""
    if "family" not in hints:
        return None if denoiser is None else family_of(denoiser.kind, denoiser.config, markers)
    family = families()[str(hints["family"])]
    if denoiser is not None and denoiser.kind != family.fits["kind"]:
        raise BadInput(
            f"hint family: {denoiser.where} holds a {denoiser.kind}, that of {family.title} is a "
            f"{family.fits['kind']}; leave the hint out, or name another."
        )
    return family


def _process(
    denoiser: DetectedPart | None,
    family: Family | None,
    hints: Mapping[str, Any],
    metadata: FolderMetadata,
    assumed: dict[str, Any],
) -> "Process | None":
    """The schedule and prediction; what had to be assumed of them is added to ``assumed``."""
    from safelight.diffusion.prediction import Noise, NoiseAndVariance

    process = metadata.process
    if family is not None and (process is None or "prediction" in hints):
        prediction = hints.get("prediction", _stated_prediction(denoiser))
        process = family.process(prediction)
        if "prediction" in family.unsure and prediction is None:
            assumed["prediction"] = family.prediction
        schedule = metadata.training.schedule(process.schedule)
        if schedule:
            process = replace(process, schedule=schedule)
        else:
            assumed["schedule"] = family.schedule
    learned = denoiser is not None and vars(denoiser.config).get("variance") == "learned"
    if process is not None and process.prediction == Noise() and learned:
        process = replace(process, prediction=NoiseAndVariance())
    return process


def _stated_prediction(denoiser: DetectedPart | None) -> str | None:
    """The prediction that a file's metadata states (modelspec), if any."""
    metadata = {} if denoiser is None else denoiser.weights.metadata
    return {"v": "v", "epsilon": "noise"}.get(metadata.get("modelspec.prediction_type", ""))


def _latents(
    autoencoder: DetectedPart | None,
    family: Family | None,
    hints: Mapping[str, Any],
    metadata: FolderMetadata,
    assumed: dict[str, Any],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the latents, for each channel or for all."""
    scale, shift = _scale_and_shift(autoencoder, family, hints, metadata, assumed)
    mean, spread = metadata.training.mean or (shift,), metadata.training.spread or (1.0,)
    channels = len(mean) if autoencoder is None else autoencoder.config.latent_channels
    if not {len(mean), len(spread)} <= {1, channels} or not all(value > 0 for value in spread):
        raise BadInput(
            f"wanted a mean and a spread above 0 for each of {channels} latent channels, "
            f"got {mean}, {spread}."
        )
    return mean, tuple(value / scale for value in spread)


def _scale_and_shift(
    autoencoder: DetectedPart | None,
    family: Family | None,
    hints: Mapping[str, Any],
    metadata: FolderMetadata,
    assumed: dict[str, Any],
) -> tuple[float, float]:
    """Scale and shift of the latents: of the hints, the folder, or the (likeliest) family."""
    if autoencoder is not None and family is None and "quant" in vars(autoencoder.config):
        key = (autoencoder.config.latent_channels, autoencoder.config.quant)
        family = families().get(KL_SCALES.get(key, ""))
        if family and metadata.scale is None and "scale" not in hints:
            assumed["latents of"] = family.name
    scale, shift = (
        hints.get("scale", metadata.scale),
        hints.get("shift", metadata.shift),
    )
    if scale is None:
        scale = family.scale if family else 1.0
    if shift is None:
        shift = family.shift if family else 0.0
    return scale, shift


def _native_side(denoiser: DetectedPart | None, autoencoder: DetectedPart | None) -> int | None:
    """The native size in pixels that a folder states for its denoiser."""
    side = None if denoiser is None else denoiser.declared.get("sample_size")
    levels = None if autoencoder is None else vars(autoencoder.config).get("multipliers")
    factor = 8 if levels is None else 2 ** (len(levels) - 1)
    return side * factor if isinstance(side, int) and side * factor <= MAX_SIDE else None


def _lacking(
    family: Family | None, single: Mapping[str, DetectedPart], encoders: Sequence[DetectedPart]
) -> dict[str, str]:
    """The parts of the denoiser's family that are missing, and the files that usually hold them."""
    if family is None or "denoiser" not in single:
        return {}
    lacking = {} if "autoencoder" in single else {"autoencoder": str(family.files["autoencoder"])}
    kinds = encoder_kinds(family) if family.text else []
    present = [part.kind for part in encoders]
    files = [
        str(file)
        for file, kind in zip(family.files.get("towers", ()), kinds, strict=True)
        if present.count(kind) < kinds.count(kind)
    ]
    return lacking | ({"conditioner": " and ".join(files)} if files else {})


def encoder_kinds(family: Family) -> list[str]:
    """The kinds of text model that a family's text encoders are, in order."""
    return [TEXT_MODELS.get(kind, kind) for kind in text_families.kinds(family.text)]


def _card(
    family: Family | None,
    parts: Sequence[DetectedPart],
    hints: Mapping[str, Any],
    metadata: FolderMetadata,
    assumed: dict[str, Any],
) -> Card:
    """What is known of the model; ``origin`` holds what was only assumed."""
    stated = {key: value for part in parts for key, value in part.weights.metadata.items()}
    origin: dict[str, Any] = {
        "files": [part.where for part in parts],
        "fingerprint": fingerprint(parts),
        "layout": sorted({part.layout.name for part in parts}),
    }
    origin |= {"family": family.name} if family else {}
    origin |= {"hints": dict(hints)} if hints else {}
    origin |= {"assumed": assumed} if assumed else {}
    settings = metadata.settings.over(family.settings) if family else metadata.settings
    size = family.size if family else 512
    name = stated.get("modelspec.title") or metadata.name
    name = name or (family.title if family else parts[0].where)
    card = Card(name=name, size=(size, size), settings=settings, origin=origin)
    return licensed(card, _licences(family, parts, hints))


def _licences(
    family: Family | None, parts: Sequence[DetectedPart], hints: Mapping[str, Any]
) -> list[PartLicence]:
    """The licence of each part: of the hints, of its file, or the usual one."""
    denoiser = next((part.source for part in parts if part.part == "denoiser"), "")
    licences = []
    for part in parts:
        is_encoder = part.part == "tower"
        usual = f"{family.title}: {family.licence}" if family else ""
        if part.part == "image_encoder" or (is_encoder and part.source != denoiser):
            usual = SHARED_LICENCES.get(part.kind, "")
        name = "conditioner" if is_encoder else part.part
        licences.append(PartLicence(name, part.source, part.licence, usual))
    return overridden(licences, hints)
