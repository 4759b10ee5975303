"""Hub-style folders with ``model_index.json``: a folder for each part, with its configuration, one for the schedule."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safelight.checkpoints import schedulers
from safelight.checkpoints.assembly import Beside
from safelight.checkpoints.native import read_json
from safelight.checkpoints.pieces import Piece, piece
from safelight.checkpoints.weights import Weights, open_weights
from safelight.errors import BadInput
from safelight.settings import Settings

PARTS = {  # folder → part; towers in this order
    "unet": "denoiser",
    "transformer": "denoiser",
    "vae": "autoencoder",
    "vqvae": "autoencoder",
    "text_encoder": "tower",
    "text_encoder_2": "tower",
    "text_encoder_3": "tower",
    "controlnet": "control",
}
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "scheduler", "low_res_scheduler")
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
VARIANTS = ("", ".fp16", ".bf16")
SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")


def read_folder(folder: Path, hints: Mapping[str, Any]) -> tuple[list[Piece], Beside]:
    """The parts of a folder, and what it says beside them. BadInput names a part that it lists and does not hold."""
    index = read_json(folder / "model_index.json")
    listed = [name for name, value in index.items() if isinstance(value, list) and value and value[0] is not None]
    found = []
    for name in listed:
        if name in PARTS:
            words = _files(folder / name.replace("text_encoder", "tokenizer")) if PARTS[name] == "tower" else {}
            found.append(replace(read_part(folder / name, hints, PARTS[name]), tokenizer=words))
        elif name not in UNUSED and not name.startswith("tokenizer"):
            raise BadInput(
                f"{folder.name}/model_index.json names {name!r} ({index[name][-1]}), which no known family has; known "
                f"are {', '.join(PARTS)}."
            )
    autoencoder = next((one.said for one in found if one.part == "autoencoder"), {})
    process, settings = None, Settings()
    if (folder / "scheduler" / "scheduler_config.json").is_file():
        where = f"{folder.name}/scheduler/scheduler_config.json"
        process, settings = schedulers.read(read_json(folder / "scheduler" / "scheduler_config.json"), where)
    return found, Beside(
        process=process,
        settings=settings,
        scale=autoencoder.get("scaling_factor"),
        shift=autoencoder.get("shift_factor"),
        name=folder.name,
    )


def read_part(folder: Path, hints: Mapping[str, Any], part: str | None = None) -> Piece:
    """The part that one folder holds; BadInput if there is no configuration or no weights in it."""
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} is missing, or has no config.json: get this part of the model too.")
    said = {**read_json(folder / "config.json"), **hints}
    return piece(weights_in(folder), f"{folder.parent.name}/{folder.name}", said, part)


def weights_in(folder: Path) -> Weights:
    """The weights of one part, sharded or not, in full precision where there is a choice."""
    for variant in VARIANTS:
        for suffix in SUFFIXES:
            for stem in STEMS:
                name = f"{stem}{variant}{suffix}" if "index" not in suffix else _index_name(stem, variant, suffix)
                if (folder / name).is_file():
                    return open_weights(folder / name)
    raise BadInput(f"{folder} holds no weights: wanted {STEMS[0]}.safetensors or {STEMS[1]}.safetensors in it.")


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a tokenizer's folder."""
    return {name: path.read_bytes() for name in TOKENIZER if (path := folder / name).is_file()}


def _index_name(stem: str, variant: str, suffix: str) -> str:
    """``model.safetensors.index.fp16.json``: the variant stands behind ``index``."""
    return f"{stem}{suffix.removesuffix('.json')}{variant}.json"
