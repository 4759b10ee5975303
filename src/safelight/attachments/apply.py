"""A model with small files merged into it or standing beside it, as a person names them: adapters, words, control,
image prompts."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safelight.adapters.lora import Adapter, Merged
from safelight.attachments.embeddings import add_words, learn
from safelight.attachments.image_prompts import face_lora, with_image_prompt
from safelight.attachments.lora_files import is_adapter, parts, read_adapter
from safelight.checkpoints.assembly import build
from safelight.checkpoints.foreign import find
from safelight.config import kind_of
from safelight.errors import BadInput, Note
from safelight.governance.licences import PartLicence, read_licence
from safelight.media.pictures import read_picture, to_bytes, to_images
from safelight.model import LatentDiffusion, with_more
from safelight.nn.control import Branch, ChannelConditioned, Controlled, Encode, encoded
from safelight.runtime import ready
from safelight.types.networks import Autoencoder, Denoiser
from safelight.weights.files import open_weights

NUMBER = r"-?\d*\.?\d+"
VECTORS = (".safetensors", ".npy", ".pt", ".pth", ".bin")
"""How files end that hold the vectors of faces."""


def adapted(
    model: LatentDiffusion, loras: Sequence[str], words: Sequence[str] = ()
) -> LatentDiffusion:
    """The model with ``FILE[:SCALE]`` merged for each of ``loras`` and ``FILE[:NAME]`` added for each of ``words``.

    Its card names them, and so do its pictures. The parts are those of ``model``, changed in place. Raises BadInput,
    before anything is changed, for a LoRA that does not fit.
    """
    scales = {path: float(scale or 1) for path, scale in (_named(one, NUMBER) for one in loras)}
    chosen = {read_adapter(Path(path), model): scale for path, scale in scales.items()}
    if not loras and not words:
        return model
    merged = Merged(parts(model))
    merged.use(chosen)
    try:
        learned = [word for adapter in chosen for word in _brought(adapter, model)]
        for path, name in (_named(one, r"\w+") for one in words):
            learned += add_words(model, path, name)
    except BadInput:
        merged.clear()
        raise
    named = {Path(path).name: scale for path, scale in scales.items()} | dict.fromkeys(learned, 1.0)
    files = [("adapter", path) for path in scales] + [
        ("word", _named(one, r"\w+")[0]) for one in words
    ]
    items = [_licence_of(part, Path(path)) for part, path in files]
    return with_more(model, named, items)


def _brought(adapter: Adapter, model: LatentDiffusion) -> list[str]:
    """The words that an adapter's file brings along, added; said aloud: what it changes that the model lacks."""
    if adapter.left:
        count = len(adapter.left)
        warnings.warn(
            f"{adapter.name}: left out are {count} tensors for towers that are not here.",
            Note,
            stacklevel=4,
        )
    if not adapter.words:
        return []
    return learn(
        model,
        {word: [vectors.view(-1, vectors.shape[-1])] for word, vectors in adapter.words.items()},
    )


def controlled(
    model: LatentDiffusion, given: str, width: int | None = None, height: int | None = None
) -> LatentDiffusion:
    """The model whose denoiser ``FILE=PICTURE[:KIND][:SCALE]`` controls, by a picture made as large as those asked.

    The file is a ControlNet or a T2I-adapter, one file or the folder of one, or a control LoRA; none, ``=PICTURE``, for
    a model that sees a picture by itself (FLUX.1 Canny and Depth). The picture is the map that it was taught (edges,
    depth), black to white; where it paints what is missing, that is transparent. ``KIND`` says by name or number what
    the picture shows, for control that knows several. Raises BadInput if the file is none, or for another denoiser.
    """
    file, equals, picture = given.partition("=")
    rest, scale = _named(picture, NUMBER)
    path, kind = _named(rest, r"[\w-]+")
    if not path or not equals:
        raise BadInput(f"control: wanted FILE=PICTURE or FILE=PICTURE:KIND:SCALE, got {given!r}.")
    if model.denoiser is None:
        raise BadInput(f"the model {model.card.name!r} has no denoiser that could be controlled.")
    side = (width or model.card.size[1], height or model.card.size[0])
    if not file or is_adapter(Path(file)):
        seen = encoded(
            2 * _read(Path(path), side, "RGB").to(_like(model).device) - 1,
            _encoder(model.autoencoder),
        )
        _see(model, Path(file) if file else None, float(scale or 1))
        wrapped: Denoiser = ChannelConditioned(model.denoiser, seen)
        items = [_licence_of("adapter", Path(file))] if file else []
        named = {Path(file).name: float(scale or 1)} if file else {}
    else:
        wrapped, item = _branched(model, Path(file), Path(path), side, float(scale or 1), kind)
        items, named = [item], {f"{Path(file).name}={Path(path).name}": float(scale or 1)}
    return with_more(replace(model, denoiser=wrapped), named, items)


def _branched(
    model: LatentDiffusion,
    file: Path,
    picture: Path,
    side: tuple[int, int],
    scale: float,
    kind: str,
) -> tuple[Controlled, PartLicence]:
    """The denoiser with the branch of a file beside it, and whose that is."""
    found, _ = find([file], {})
    if [one.part for one in found] != ["control"]:
        raise BadInput(
            f"{file} holds {', '.join(one.part for one in found)}; wanted a ControlNet or a T2I-adapter."
        )
    assert model.denoiser is not None
    like = _like(model)
    branch = cast("Branch", ready(build(found[0]), like.device, like.dtype))
    hint = _read(picture, side, {1: "L", 4: "RGBA"}.get(branch.hint_channels, "RGB")).to(
        like.device
    )
    with torch.no_grad():
        held = Controlled(
            model.denoiser, branch, hint, scale, encode=_encoder(model.autoencoder), mode=kind
        )
    return held, PartLicence("control", found[0].source, found[0].licence)


def _see(model: LatentDiffusion, file: Path | None, scale: float) -> None:
    """Let the denoiser see a picture by the control LoRA of a file, or by itself; BadInput if that shows it none."""
    merged = Merged(parts(model))
    if file is not None:
        adapter = read_adapter(file, model)
        if not adapter.widens(merged.parts):
            raise BadInput(
                f"{file.name} is a LoRA that shows the model no picture: merge it by --lora."
            )
        merged.use({adapter: scale})
    config = vars(merged.parts["denoiser"])["config"]
    if kind_of(config) != "flux" or config.extra_channels != config.channels:
        merged.clear()
        raise BadInput(
            f"the model {model.card.name!r} sees no picture by itself: name the file that controls it, FILE=PICTURE."
        )


def _like(model: LatentDiffusion) -> Tensor:
    """Something of the denoiser's device and precision."""
    return next(parts(model)["denoiser"].parameters())


def _read(path: Path, side: tuple[int, int], mode: str) -> Tensor:
    """A picture of that size as (1, channels, h, w) from 0 to 1."""
    shown = read_picture(path, str(path), transparent=mode == "RGBA").resize(
        side, Image.Resampling.LANCZOS
    )
    return to_bytes(shown, mode)[None].float() / 255


def _encoder(autoencoder: Autoencoder | None) -> Encode | None:
    """The likeliest latents of images, as an autoencoder sees them."""
    return (
        None
        if autoencoder is None
        else torch.no_grad()(lambda images: autoencoder.encode(images).mode())
    )


def prompted(
    model: LatentDiffusion, given: str, hints: Mapping[str, Any] | None = None
) -> LatentDiffusion:
    """The model that ``FILE=PICTURE[,PICTURE…][:SCALE]`` prompts beside its text: the file of an image prompt, and what
    it is shown. For FaceID that is the vector of a face, a file with one tensor (safetensors, npy, …), for FaceID Plus
    that and the picture; the LoRA that these files hold is merged into the denoiser.

    The image encoder is the model's own, or the one beside the file. Raises BadInput, with nothing merged, if anything
    is missing or does not go with the others.
    """
    file, _, shown = given.partition("=")
    paths, scale = _named(shown, NUMBER)
    if not file or not paths:
        raise BadInput(f"image-prompt: wanted FILE=PICTURE or FILE=PICTURE:SCALE, got {given!r}.")
    names, weight = paths.split(","), float(scale or 1)
    faces = [_face(Path(name)) for name in names if Path(name).suffix.lower() in VECTORS]
    pictures = [name for name in names if Path(name).suffix.lower() not in VECTORS]
    seen: dict[str, Any] = {
        "image": [to_images([read_picture(Path(name), name)]) for name in pictures]
    }
    seen = {**(seen if pictures else {}), **({"face_vector": torch.cat(faces)} if faces else {})}
    called = ",".join(Path(name).name for name in names)
    made = with_image_prompt(model, file, weight, shown=seen, hints=hints, called=called)
    lora = face_lora(file, model) if weight else None
    if lora is None:
        return made
    Merged(parts(model)).use({lora: 1.0})
    return with_more(made, {f"{Path(file).name} (LoRA)": 1.0}, [_licence_of("adapter", Path(file))])


def _face(path: Path) -> Tensor:
    """The vectors of faces in a file, (k, d); BadInput if it holds anything else."""
    try:
        if path.suffix.lower() == ".npy":
            found = [torch.from_numpy(np.load(path, allow_pickle=False))]
        else:
            found = [*open_weights(path).values()]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path.name} cannot be read: {error}.") from None
    if len(found) != 1 or found[0].ndim not in (1, 2) or not found[0].is_floating_point():
        shapes = ", ".join(str(tuple(one.shape)) for one in found[:3])
        raise BadInput(
            f"{path.name}: wanted the vector of a face, one tensor (d) or (k, d), got {shapes or 'nothing'}."
        )
    return found[0] if found[0].ndim == 2 else found[0][None]


def _named(given: str, what: str) -> tuple[str, str]:
    """The file, and what stands behind its last colon if it is of that form."""
    found = re.fullmatch(rf"(.+?)(?::({what}))?", given)
    return (found[1], found[2] or "") if found else (given, "")


def _licence_of(part: str, path: Path) -> PartLicence:
    """The licence that a file of weights states for what is attached to a model as ``part``."""
    return PartLicence(part, path.name, read_licence(open_weights(path).metadata, path))
