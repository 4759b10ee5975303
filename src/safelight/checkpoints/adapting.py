"""A model with small files merged into it or standing beside it, as a person names them: adapters, words, control."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from PIL import Image

from safelight.adapters.lora import Merged
from safelight.checkpoints.adapter_files import parts, read_adapter
from safelight.checkpoints.assembly import build
from safelight.checkpoints.foreign import find
from safelight.checkpoints.weights import licence_of
from safelight.checkpoints.words import add_words
from safelight.denoisers.control import Branch, Controlled, Encode, innermost
from safelight.errors import BadInput
from safelight.governance.licences import Licensed
from safelight.media.pictures import read_picture, to_bytes
from safelight.model import LatentDiffusion, module, with_more
from safelight.types import Autoencoder


def adapted(model: LatentDiffusion, loras: Sequence[str], words: Sequence[str] = ()) -> LatentDiffusion:
    """The model with ``FILE[:SCALE]`` merged for each of ``loras`` and ``FILE[:NAME]`` added for each of ``words``.

    Its card names them, and so do its pictures. The parts are those of ``model``, changed in place. Raises BadInput,
    before anything is changed, for a LoRA that does not fit.
    """
    scales = {path: float(scale or 1) for path, scale in (_named(one, r"-?\d*\.?\d+") for one in loras)}
    chosen = {read_adapter(Path(path), model): scale for path, scale in scales.items()}
    if chosen:
        Merged(parts(model)).use(chosen)
    if not loras and not words:
        return model
    learned = [word for path, name in (_named(one, r"\w+") for one in words) for word in add_words(model, path, name)]
    named = {Path(path).name: scale for path, scale in scales.items()} | dict.fromkeys(learned, 1.0)
    files = [("adapter", path) for path in scales] + [("word", _named(one, r"\w+")[0]) for one in words]
    items = [licence_of(part, Path(path)) for part, path in files]
    return with_more(model, named, items)


def controlled(
    model: LatentDiffusion, given: str, width: int | None = None, height: int | None = None
) -> LatentDiffusion:
    """The model whose denoiser ``FILE=PICTURE[:KIND][:SCALE]`` controls, by a picture made as large as those asked.

    The file is a ControlNet or a T2I-adapter, one file or the folder of one; the picture is the map that it was
    taught (edges, depth), black to white; where it paints what is missing, that is transparent. ``KIND`` says by name
    or number what the picture shows, for control that knows several. Raises BadInput if the file is none, or for
    another denoiser.
    """
    file, _, picture = given.partition("=")
    rest, scale = _named(picture, r"-?\d*\.?\d+")
    path, kind = _named(rest, r"[\w-]+")
    if not path or not file:
        raise BadInput(f"control: wanted FILE=PICTURE or FILE=PICTURE:KIND:SCALE, got {given!r}.")
    if model.denoiser is None:
        raise BadInput(f"the model {model.card.name!r} has no denoiser that could be controlled.")
    found, _ = find([Path(file)], {})
    if [one.part for one in found] != ["control"]:
        raise BadInput(f"{file} holds {', '.join(one.part for one in found)}; wanted a ControlNet or a T2I-adapter.")
    like = next(module(innermost(model.denoiser)).parameters())
    branch = cast("Branch", build(found[0]).eval().requires_grad_(False).to(like))
    side = (width or model.card.size[1], height or model.card.size[0])
    mode = {1: "L", 4: "RGBA"}.get(branch.colours, "RGB")
    shown = read_picture(Path(path), path, mode == "RGBA").resize(side, Image.Resampling.LANCZOS)
    hint = (to_bytes(shown, mode)[None].float() / 255).to(like.device)
    with torch.no_grad():
        wrapped = Controlled(
            model.denoiser, branch, hint, float(scale or 1), encode=_encoder(model.autoencoder), mode=kind
        )
    items = [Licensed("control", found[0].source, found[0].licence)]
    return with_more(replace(model, denoiser=wrapped), {Path(file).name: float(scale or 1)}, items)


def _encoder(autoencoder: Autoencoder | None) -> Encode | None:
    """The likeliest latents of images, as an autoencoder sees them."""
    return None if autoencoder is None else lambda images: autoencoder.encode(images).mode()


def _named(given: str, what: str) -> tuple[str, str]:
    """The file, and what stands behind its last colon if it is of that form."""
    found = re.fullmatch(rf"(.+?)(?::({what}))?", given)
    return (found[1], found[2] or "") if found else (given, "")
