"""Folders of diffusers with a ``model_index.json``: a folder for each part with its configuration,
and one for the scheduler."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.checkpoints.json_files import read_json
from safelight.errors import BadInput
from safelight.files import within
from safelight.layouts import schedulers
from safelight.layouts.detection import DetectedPart, detect_part
from safelight.layouts.training_metadata import LATENTS, TrainingMetadata
from safelight.settings import Settings
from safelight.weights.files import Weights, open_weights

if TYPE_CHECKING:
    from safelight.diffusion.process import Process

PARTS = {  # folder → part; text encoders in this order
    "unet": "denoiser",
    "transformer": "denoiser",
    "vae": "autoencoder",
    "vqvae": "autoencoder",
    "text_encoder": "tower",
    "text_encoder_2": "tower",
    "text_encoder_3": "tower",
    "bert": "tower",
    "controlnet": "control",
}
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "scheduler", "low_res_scheduler")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "vocab.txt")
MAX_TOKENIZER_BYTES = 64 << 20
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
VARIANTS = ("", ".fp16", ".bf16")
SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")


def read_parts(folder: Path, hints: Mapping[str, Any]) -> list[DetectedPart]:
    """The parts of a folder; BadInput if it lists one that is missing or that no family has."""
    parts = []
    for name, class_name in _listed(folder).items():
        if name in PARTS:
            part = _read(folder, name, hints, PARTS[name])
            if part.part == "tower":
                files = tokenizer_files(folder, tokenizer_folder(name))
                part = replace(part, tokenizer=files)
            parts.append(part)
        elif name not in UNUSED and not name.startswith("tokenizer"):
            raise BadInput(
                f"{folder.name}/model_index.json names {name[:100]!r} ({class_name[:100]}), "
                f"which no known family has; known are {', '.join(PARTS)}."
            )
    return parts


def read_scheduler(folder: Path) -> "tuple[Process | None, Settings]":
    """The process and the settings that a folder's scheduler stands for; none without one."""
    process, settings = None, Settings()
    if "scheduler" in _listed(folder):
        file = folder / "scheduler" / "scheduler_config.json"
        where = f"{folder.name}/scheduler/scheduler_config.json"
        process, settings = schedulers.read(_config(file, folder), where)
    index = read_json(within(folder / "model_index.json", folder))
    if index.get("is_distilled") is False:  # the base model of FLUX.2 klein
        settings = Settings(steps=50, guidance=4.0).over(settings)
    return process, settings


def read_part(folder: Path, hints: Mapping[str, Any], kind: str | None = None) -> DetectedPart:
    """The part in one folder; BadInput if it has no configuration or no weights.

    The tokenizer of a text encoder may be in its folder or in the one next to it.
    """
    part = _read(folder, ".", hints, kind)
    if part.part != "tower":
        return part
    neighbour = tokenizer_folder(folder.name)
    files = tokenizer_files(folder, ".") or tokenizer_files(folder.parent, neighbour)
    return replace(part, tokenizer=files)


def latent_statistics(config: Mapping[str, Any]) -> TrainingMetadata:
    """Mean and standard deviation of each latent channel, if an autoencoder's config has them."""
    values = [config.get(name, []) for name in ("latents_mean", "latents_std")]
    mean, deviation = (tuple(item) if isinstance(item, list) else (item,) for item in values)
    return TrainingMetadata(
        names=LATENTS if mean and deviation else (), mean=mean, spread=deviation
    )


def weights_in(folder: Path, root: Path) -> Weights:
    """The weights of one part, sharded or not; in full precision where there is a choice."""
    for variant in VARIANTS:
        for suffix in SUFFIXES:
            for stem in STEMS:
                file = folder / _file_name(stem, variant, suffix)
                if file.is_file():
                    return open_weights(within(file, root))
    raise BadInput(
        f"{folder} holds no weights: wanted {STEMS[0]}.safetensors or {STEMS[1]}.safetensors in it."
    )


def tokenizer_folder(encoder: str) -> str:
    """The name of the folder of a text encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer").replace("bert", "tokenizer")


def tokenizer_files(root: Path, folder: str) -> dict[str, bytes]:
    """The files of a tokenizer in a folder of this root, by name."""
    paths = {name: root / folder / name for name in TOKENIZER_FILES}
    files = {name: within(path, root) for name, path in paths.items() if path.is_file()}
    for path in files.values():
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise BadInput(
                f"{path} is longer than {MAX_TOKENIZER_BYTES:,} bytes; wanted a tokenizer."
            )
    return {name: path.read_bytes() for name, path in files.items()}


def _listed(folder: Path) -> dict[str, str]:
    """The classes of the parts that ``model_index.json`` lists; BadInput if it is malformed."""
    where, classes = f"{folder.name}/model_index.json", dict[str, str]()
    for name, value in read_json(within(folder / "model_index.json", folder)).items():
        if (
            isinstance(value, list)
            and len(value) == 2
            and all(item is None or isinstance(item, str) for item in value)
        ):
            classes |= {name: value[1]} if None not in value else {}
        elif name in PARTS:
            raise BadInput(
                f"{where}: {name[:100]!r} wants a library and a class, got {str(value)[:100]}."
            )
    if not classes.keys() & PARTS.keys():
        raise BadInput(f"{where} names no part of a model; known are {', '.join(PARTS)}.")
    return classes


def _read(root: Path, name: str, hints: Mapping[str, Any], kind: str | None) -> DetectedPart:
    folder = root / name
    config = {**_config(folder / "config.json", root), **hints}
    where = f"{folder.parent.name}/{folder.name}"
    return detect_part(weights_in(folder, root), where, config, kind)


def _config(path: Path, root: Path) -> dict[str, Any]:
    """The configuration of a part; BadInput if it is missing."""
    if not path.is_file():
        raise BadInput(
            f"{path.parent} is missing, or has no {path.name}: get this part of the model too."
        )
    return read_json(within(path, root))


def _file_name(stem: str, variant: str, suffix: str) -> str:
    """``model.fp16.safetensors``; in an index the variant is last before ``.json``."""
    if "index" in suffix:
        return f"{stem}{suffix.removesuffix('.json')}{variant}.json"
    return f"{stem}{variant}{suffix}"
