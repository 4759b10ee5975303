"""Hub-style folders with ``model_index.json``: a folder for each part, with its configuration, one for the schedule."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safelight.checkpoints.assembly import Beside
from safelight.checkpoints.native import read_json
from safelight.errors import BadInput
from safelight.files import within
from safelight.layouts import schedulers
from safelight.layouts.detection import Piece, piece
from safelight.layouts.training_metadata import LATENTS, Marks
from safelight.settings import Settings
from safelight.weights.files import Weights, open_weights

PARTS = {  # folder → part; towers in this order
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
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "vocab.txt")
LONGEST = 64 << 20  # bytes of a file of a tokenizer
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
VARIANTS = ("", ".fp16", ".bf16")
SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")


def read_folder(folder: Path, hints: Mapping[str, Any]) -> tuple[list[Piece], Beside]:
    """The parts of a folder, and what it says beside them. BadInput names a part that it lists and does not hold."""
    listed = _listed(folder)
    found = []
    for name in listed:
        if name in PARTS:
            words = words_in(folder, tokenizer(name)) if PARTS[name] == "tower" else {}
            found.append(replace(_part(folder, name, hints, PARTS[name]), tokenizer=words))
        elif name not in UNUSED and not name.startswith("tokenizer"):
            raise BadInput(
                f"{folder.name}/model_index.json names {name[:100]!r} ({listed[name][:100]}), which no known family "
                f"has; known are {', '.join(PARTS)}."
            )
    autoencoder = next((one.said for one in found if one.part == "autoencoder"), {})
    process, settings = None, Settings()
    if "scheduler" in listed:
        said = _said(folder / "scheduler" / "scheduler_config.json", folder)
        process, settings = schedulers.read(said, f"{folder.name}/scheduler/scheduler_config.json")
    if (
        read_json(within(folder / "model_index.json", folder)).get("is_distilled") is False
    ):  # FLUX.2 klein's base
        settings = Settings(steps=50, guidance=4.0).over(settings)
    return found, Beside(
        process=process,
        settings=settings,
        scale=autoencoder.get("scaling_factor"),
        shift=autoencoder.get("shift_factor"),
        marks=spread(autoencoder),
        name=folder.name,
    )


def spread(said: Mapping[str, Any]) -> Marks:
    """Mean and spread of each channel of the latents, where an autoencoder's configuration has them."""
    given = [said.get(name, []) for name in ("latents_mean", "latents_std")]
    mean, deviation = (tuple(one) if isinstance(one, list) else (one,) for one in given)
    return Marks(names=LATENTS if mean and deviation else (), mean=mean, spread=deviation)


def read_part(folder: Path, hints: Mapping[str, Any], part: str | None = None) -> Piece:
    """The part that one folder holds; BadInput if there is no configuration or no weights in it.

    The tokenizer of a text tower may lie in its folder, or in the one beside it, as in a folder of all parts.
    """
    found = _part(folder, ".", hints, part)
    if found.part != "tower":
        return found
    words = words_in(folder, ".") or words_in(folder.parent, tokenizer(folder.name))
    return replace(found, tokenizer=words)


def _listed(folder: Path) -> dict[str, str]:
    """The parts that ``model_index.json`` names, with their classes; BadInput if it names none, or not as it should."""
    where, found = f"{folder.name}/model_index.json", dict[str, str]()
    for name, value in read_json(within(folder / "model_index.json", folder)).items():
        if (
            isinstance(value, list)
            and len(value) == 2
            and all(one is None or isinstance(one, str) for one in value)
        ):
            found |= {name: value[1]} if None not in value else {}
        elif name in PARTS:
            raise BadInput(
                f"{where}: {name[:100]!r} wants a library and a class, got {str(value)[:100]}."
            )
    if not found.keys() & PARTS.keys():
        raise BadInput(f"{where} names no part of a model; known are {', '.join(PARTS)}.")
    return found


def _part(root: Path, name: str, hints: Mapping[str, Any], part: str | None) -> Piece:
    folder = root / name
    said = {**_said(folder / "config.json", root), **hints}
    return piece(weights_in(folder, root), f"{folder.parent.name}/{folder.name}", said, part)


def _said(path: Path, root: Path) -> dict[str, Any]:
    """The configuration of a part, which is to be there."""
    if not path.is_file():
        raise BadInput(
            f"{path.parent} is missing, or has no {path.name}: get this part of the model too."
        )
    return read_json(within(path, root))


def weights_in(folder: Path, root: Path) -> Weights:
    """The weights of one part, sharded or not, in full precision where there is a choice."""
    for variant in VARIANTS:
        for suffix in SUFFIXES:
            for stem in STEMS:
                name = (
                    f"{stem}{variant}{suffix}"
                    if "index" not in suffix
                    else _index_name(stem, variant, suffix)
                )
                if (folder / name).is_file():
                    return open_weights(within(folder / name, root))
    raise BadInput(
        f"{folder} holds no weights: wanted {STEMS[0]}.safetensors or {STEMS[1]}.safetensors in it."
    )


def tokenizer(tower: str) -> str:
    """The folder of a tower's tokenizer, by that of the tower."""
    return tower.replace("text_encoder", "tokenizer").replace("bert", "tokenizer")


def words_in(root: Path, folder: str) -> dict[str, bytes]:
    """The files of a tokenizer in a folder of this root."""
    there = {
        name: within(path, root) for name in TOKENIZER if (path := root / folder / name).is_file()
    }
    for path in there.values():
        if path.stat().st_size > LONGEST:
            raise BadInput(f"{path} is longer than {LONGEST:,} bytes; wanted a tokenizer.")
    return {name: path.read_bytes() for name, path in there.items()}


def _index_name(stem: str, variant: str, suffix: str) -> str:
    """``model.safetensors.index.fp16.json``: the variant stands behind ``index``."""
    return f"{stem}{suffix.removesuffix('.json')}{variant}.json"
