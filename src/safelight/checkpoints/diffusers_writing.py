"""Writing a model as a folder of diffusers, or a part as a folder of diffusers or transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from safelight.autoencoders.kl import config as kl_config
from safelight.card import Card
from safelight.checkpoints.diffusers_folder import tokenizer_folder
from safelight.checkpoints.json_files import write_json
from safelight.checkpoints.saved_parts import (
    PartToWrite,
    layout_of,
    parts_to_write,
    text_encoder,
)
from safelight.errors import BadInput
from safelight.files import writing_folder
from safelight.governance.licences import markdown_table
from safelight.layouts import schedulers
from safelight.layouts.families import Family
from safelight.layouts.text_families import cut
from safelight.model import LatentDiffusion
from safelight.tokenization.tokenizers import BERT_SPECIAL
from safelight.weights.progress import ByteProgress, ProgressCallback, no_progress
from safelight.weights.writing import size, write_tensors

DIFFUSERS_VERSION = "0.42.1"
"""The version of diffusers whose names and configurations the folders have."""

MAX_SHARD_BYTES = 10 * 10**9
LATENT_STATISTICS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
TOKENIZER_CLASSES = {"t5": "T5TokenizerFast", "bert": "BertTokenizer"}
BERT_MARKERS = ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")


def write_diffusers_folder(
    model: LatentDiffusion, folder: Path, progress: ProgressCallback = no_progress
) -> None:
    """Write a folder with its ``model_index.json``; an autoencoder or image encoder alone as the
    folder of one part.

    Raises BadInput if no family has such parts, or if the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise BadInput(f"{str(folder)!r} is not empty; write to a folder that is new.")
    family, parts = parts_to_write(model)
    if family is not None and not family.folder:
        raise BadInput(
            f"diffusers has no folder of {family.title}; "
            "write a single file (--to single-file), or native."
        )
    count = ByteProgress("writing", sum(size(part.state) for part in parts), progress)
    with writing_folder(folder) as temporary:
        if family is None:
            (part,) = parts
            _write_part(part, temporary, count)
        else:
            _write_model(model, family, parts, temporary, count)


def _write_model(
    model: LatentDiffusion,
    family: Family,
    parts: list[PartToWrite],
    folder: Path,
    count: ByteProgress,
) -> None:
    """Write every part, tokenizer and scheduler, and the index that lists them."""
    index: dict[str, Any] = {
        "_class_name": family.folder["pipeline"],
        "_diffusers_version": DIFFUSERS_VERSION,
    }
    for part in parts:
        name, library, class_name = _place(part, family)
        index[name] = [library, class_name]
        if part.part == "towers":
            encoder = text_encoder(model, part.number)
            config, state = cut(encoder.config, part.state)  # readers take the last state
            part = part._replace(config=config, state=state)
            words = tokenizer_folder(name)
            index[words] = ["transformers", _write_tokenizer(encoder, folder / words)]
        _write_part(part, folder / name, count)
    configs = dict(family.folder.get("schedulers", {}))
    if model.process is not None:
        configs = {"scheduler": schedulers.write(model.process, model.card.settings), **configs}
    for name, scheduler in configs.items():
        (folder / name).mkdir()
        write_json(folder / name / "scheduler_config.json", scheduler)
        index[name] = ["diffusers", scheduler["_class_name"]]
    write_json(folder / "model_index.json", dict(sorted(index.items())))
    (folder / "README.md").write_text(_model_card(model.card), encoding="utf-8")


def _place(part: PartToWrite, family: Family) -> tuple[str, str, str]:
    """The folder of a part, and the library and the class that read it."""
    if part.part == "denoiser":
        folder, class_name = family.folder["denoiser"]
        return folder, "diffusers", class_name
    if part.part == "towers":
        class_name = family.folder["towers"][part.number]
        if class_name == "LDMBertModel":
            return "bert", "latent_diffusion", class_name
        suffix = f"_{part.number + 1}" if part.number else ""
        return f"text_encoder{suffix}", "transformers", class_name
    if "autoencoder" in family.folder:
        folder, class_name = family.folder["autoencoder"]
        return folder, "diffusers", class_name
    if isinstance(part.config, kl_config.Config) and part.config.packed > 1:
        return "vae", "diffusers", "AutoencoderKLFlux2"
    if part.kind == "vq":
        return "vqvae", "diffusers", "VQModel"
    return "vae", "diffusers", "AutoencoderKL"


def _write_part(part: PartToWrite, folder: Path, count: ByteProgress) -> None:
    """Write the configuration and the weights of a part, in several files if they are large."""
    transformers = part.part in ("towers", "image_encoder")
    layout = layout_of("transformers" if transformers else "diffusers", part)
    assert layout.describe is not None
    folder.mkdir(parents=True, exist_ok=True)
    config = layout.describe(part.config)
    optional = LATENT_STATISTICS if part.kind == "kl" else LATENT_STATISTICS[:1]
    more = {key: value for key, value in part.metadata.items() if key in config or key in optional}
    write_json(folder / "config.json", {**config, **more})
    tensors = dict(layout.table(part.config).to_theirs(part.state))
    _write_shards(tensors, folder, "model" if transformers else "diffusion_pytorch_model", count)


def _write_shards(
    tensors: Mapping[str, Tensor], folder: Path, stem: str, count: ByteProgress
) -> None:
    """Write tensors to one file, or to several with an index."""
    shards = _shards(tensors)
    if len(shards) == 1:
        write_tensors(tensors, folder / f"{stem}.safetensors", count=count)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors({name: tensors[name] for name in names}, folder / file, count=count)
        places |= dict.fromkeys(names, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def _shards(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of the tensors in each file."""
    shards: list[list[str]] = [[]]
    length = 0
    for name, tensor in tensors.items():
        if shards[-1] and length + tensor.nbytes > MAX_SHARD_BYTES:
            shards.append([])
            length = 0
        shards[-1].append(name)
        length += tensor.nbytes
    return shards


def _write_tokenizer(encoder: Any, folder: Path) -> str:
    """Write the tokenizer of a text encoder as transformers does, and return its class there."""
    kind = encoder.config.tokenizer
    text = encoder.tokenizer.backend.to_str()
    folder.mkdir()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    if kind == "clip":
        begin, end = "<|startoftext|>", "<|endoftext|>"
        pad = end if encoder.config.padding == "end" else "!"
        markers = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": pad}
        model = json.loads(text)["model"]
        write_json(folder / "vocab.json", model["vocab"])
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        merges = "#version: 0.2\n" + "\n".join(pairs) + "\n"
        (folder / "merges.txt").write_text(merges, encoding="utf-8")
    elif kind == "bert":
        markers = dict(zip(BERT_MARKERS, BERT_SPECIAL, strict=True))
        ids = encoder.tokenizer.backend.get_vocab()
        vocabulary = "\n".join(sorted(ids, key=ids.__getitem__)) + "\n"
        (folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    else:
        markers = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    class_name = TOKENIZER_CLASSES.get(kind, "CLIPTokenizer")
    length = {"model_max_length": encoder.config.length}
    config = {"tokenizer_class": class_name, **length, **markers}
    write_json(folder / "tokenizer_config.json", config)
    return class_name


def _model_card(card: Card) -> str:
    """The model card, with its licence where the hub looks for it."""
    lines = [
        "---",
        "license: other",
        f"license_name: {json.dumps(card.licence, ensure_ascii=False)}",
        "---",
        "",
        f"# {card.name}",
        "",
        card.summary,
        "",
        *markdown_table(card.licences),
    ]
    return "\n".join(lines)
