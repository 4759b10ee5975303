"""Attaching image prompts (IP-Adapter): a model prompted with pictures beside its text."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from safelight.adapters.image_prompt import (
    AttentionTarget,
    Config,
    ImagePrompt,
    ImagePromptConditioner,
    fits,
)
from safelight.adapters.lora import Adapter, Merged
from safelight.attachments.licences import licence_of
from safelight.attachments.lora_files import (
    adaptable_parts,
    mappings_of_model,
    place_adapter,
    transformer_blocks,
)
from safelight.attachments.specs import ImagePromptSpec
from safelight.checkpoints.assembly import build_part
from safelight.checkpoints.detach import detach
from safelight.checkpoints.locate import is_part_folder
from safelight.checkpoints.parts import find_parts
from safelight.conditioners import text_readers
from safelight.denoisers.flux.network import Flux
from safelight.denoisers.unet.network import UNet
from safelight.errors import BadInput
from safelight.governance.licences import PartLicence
from safelight.layouts.detection import DetectedPart
from safelight.media.pictures import read_picture, to_images
from safelight.model import LatentDiffusion, module, with_more
from safelight.nn.attention import CrossAttention
from safelight.nn.clip_vision import ImageEncoder
from safelight.runtime import ready
from safelight.weights.files import open_weights

FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL", 4096: "FLUX.1"}
"""The denoisers that image prompts are made for, by the width of their text."""

LORA = re.compile(r"ip_adapter\.(\d+)\.(to_(?:q|k|v|out)_lora\.(?:down|up)\.weight)")
"""The names of the LoRA in the files of FaceID."""

VECTOR_FILES = (".safetensors", ".npy", ".pt", ".pth", ".bin")
"""The suffixes of files that hold face vectors instead of a picture."""


def attach_image_prompt(
    model: LatentDiffusion, spec: ImagePromptSpec, hints: Mapping[str, Any] | None = None
) -> LatentDiffusion:
    """The model prompted with these pictures beside its text.

    For FaceID the picture is a face vector, a file with one tensor (safetensors, npy, …), for
    FaceID Plus that and the picture; the LoRA in these files is merged into the denoiser. The
    image encoder is the model's own, or one next to the file. Raises BadInput, with nothing
    merged, if anything is missing or does not fit.
    """
    is_vector = [path.suffix.lower() in VECTOR_FILES for path in spec.pictures]
    pairs = list(zip(spec.pictures, is_vector, strict=True))
    vectors = [_face_vectors(path) for path, vector in pairs if vector]
    images = [to_images([read_picture(path, str(path))]) for path, vector in pairs if not vector]
    inputs: dict[str, Any] = {"image": images} if images else {}
    inputs |= {"face_vector": torch.cat(vectors)} if vectors else {}
    names = ",".join(path.name for path in spec.pictures)
    result = with_image_prompt(
        model, spec.file, spec.scale, inputs=inputs, hints=hints, input_names=names
    )
    lora = face_lora(spec.file, model) if spec.scale else None
    if lora is None:
        return result
    Merged(adaptable_parts(model)).use({lora: 1.0})
    attached = {f"{spec.file.name} (LoRA)": 1.0}
    return with_more(result, attached, [licence_of("adapter", spec.file)])


def with_image_prompt(
    model: LatentDiffusion,
    path: str | Path,
    scale: float = 1.0,
    encoder: str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    hints: Mapping[str, Any] | None = None,
    input_names: str = "given",
) -> LatentDiffusion:
    """The model with an image prompt; the given model shares its weights and stays as it is.

    Its prompts may have an ``image``, or what an encoder made of one (see
    ``ImagePromptConditioner``); prompts without one use ``inputs``, which its card calls
    ``input_names``. The LoRA in a file of
    FaceID is not merged: ``face_lora`` reads it.

    ``encoder``: the file or folder of the image encoder; by default the model's own, or the one
    next to ``path``. ``hints``: ``{"shortcut": True}`` for FaceID Plus of the second version, by
    default what the file's name says; ``image_encoder_heads`` and ``image_encoder_activation``,
    which no file of an encoder states.
    Raises BadInput if the file holds no image prompt, or one for another denoiser, or if the
    encoder does not fit.
    """
    path, hints = Path(path), hints or {}
    part = read_image_prompt(path, hints)
    denoiser, conditioner = detach(model).denoiser, model.conditioner
    weighted = conditioner and any(reader.reads_weights for reader in text_readers(conditioner))
    if not isinstance(denoiser, UNet | Flux) or conditioner is None or not weighted:
        raise BadInput(
            f"an image prompt is for a U-Net or FLUX with text encoders, not {model.card.name!r}."
        )
    places = adapter_places(part.config, denoiser, path.name)
    weight = next(module(denoiser).parameters())
    adapter = cast("ImagePrompt", ready(build_part(part), weight.device, weight.dtype))
    image_encoder = model.image_encoder
    encoder_part = find_image_encoder(part.config, image_encoder, path, encoder, hints)
    if encoder_part is not None:
        network = ready(build_part(encoder_part), weight.device, weight.dtype)
        image_encoder = cast("ImageEncoder", network)
    prompted = ImagePromptConditioner(conditioner, adapter, places, scale, image_encoder, inputs)
    licences = [
        PartLicence(item.part, item.source, item.licence)
        for item in (part, encoder_part)
        if item is not None
    ]
    attached = {f"{path.name}={input_names}": scale}
    return with_more(replace(model, conditioner=prompted), attached, licences)


def read_image_prompt(path: Path, hints: Mapping[str, Any]) -> DetectedPart:
    """The image prompt in a file, from its header; BadInput if it holds anything else."""
    version = {"shortcut": "yes"} if "plusv2" in path.name.lower().replace("-", "") else {}
    parts, _ = find_parts([path], {**version, **hints})
    if [part.part for part in parts] != ["image prompt"]:
        raise BadInput(
            f"{path.name} holds {', '.join(part.part for part in parts)}; "
            "wanted an image prompt (IP-Adapter)."
        )
    return parts[0]


def adapter_places(config: Config, denoiser: UNet | Flux, where: str) -> list[AttentionTarget]:
    """The place in the adapter of each attention of the denoiser that attends to pictures.

    An adapter counts a U-Net's attentions down, up and then through the middle, we count the
    middle before up. Levels whose first attention is to the text alone are left out (the
    upscaler's). FLUX attends to pictures in each of its double blocks. BadInput if the adapter is
    for another denoiser.
    """
    if isinstance(denoiser, Flux):
        shape = denoiser.config
        require_fit(config, (shape.width,) * shape.double, shape.text_width, where)
        return [AttentionTarget(number, shape.heads) for number in range(shape.double)]
    sections = (denoiser.encoder.down, denoiser.encoder.middle, denoiser.up)
    attentions = [_cross_attentions(section) for section in sections]
    down, middle, up = (len(section) for section in attentions)
    numbers = [*range(down), *range(down + up, down + up + middle), *range(down, down + up)]
    numbered = list(zip(numbers, (a for section in attentions for a in section), strict=True))
    widths = {number: attention.q.out_features for number, attention in numbered}
    in_order = tuple(widths[number] for number in sorted(widths))
    require_fit(config, in_order, denoiser.config.text_width, where)
    return [AttentionTarget(number, attention.heads) for number, attention in numbered]


def require_fit(config: Config, widths: Sequence[int], text_width: int, where: str) -> None:
    """BadInput unless an adapter's attentions and text are as wide as the denoiser's."""
    if (config.widths, config.project.text_width) == (tuple(widths), text_width):
        return
    wanted = _described(config.widths, config.project.text_width)
    raise BadInput(
        f"{where} is for a denoiser of {wanted}; "
        f"this one has {_described(widths, text_width)}: take one made for it."
    )


def _described(widths: Sequence[int], text_width: int) -> str:
    family = f" (as {FAMILIES[text_width]})" if text_width in FAMILIES else ""
    distinct = ", ".join(map(str, dict.fromkeys(widths)))
    return f"{len(widths)} attentions of widths {distinct} and a text {text_width} wide{family}"


def find_image_encoder(
    config: Config,
    own: ImageEncoder | None,
    path: Path,
    encoder: str | Path | None,
    hints: Mapping[str, Any],
) -> DetectedPart | None:
    """The image encoder that an adapter needs, in the file ``encoder`` or next to ``path``.

    None if it needs none, if the model's ``own`` fits, or if there is none. BadInput if the one
    that was named, or the only one, does not fit.
    """
    needs = config.project.reads
    if needs.keys() <= {"face"}:
        return None
    if encoder is None:
        if own is not None and fits(own.config, needs):
            return None
        nearby = (part for part in parts_next_to(path) if part.part == "image_encoder")
        part = next((part for part in nearby if fits(part.config, needs)), None)
        if part is None and own is not None:
            raise BadInput(_misfit("the image encoder of the model", own.config, needs))
        return part
    name = Path(encoder).name
    parts, _ = find_parts([Path(encoder)], hints)
    part = next((part for part in parts if part.part == "image_encoder"), None)
    if part is None:
        raise BadInput(f"{name} is no image encoder that is known: wanted CLIP's.")
    if not fits(part.config, needs):
        raise BadInput(_misfit(name, part.config, needs))
    return part


def parts_next_to(path: Path) -> Iterator[DetectedPart]:
    """The parts where image encoders are usually kept for an adapter.

    That is in folders ``image_encoder`` nearby, in files next to it that are called an image
    encoder or CLIP vision, and in a folder ``clip_vision``; what cannot be read is skipped.
    """
    parent = path.parent.parent
    folders = [folder / "image_encoder" for folder in (path.parent, parent, parent / "models")]
    files = [
        file
        for file in sorted(path.parent.glob("*.safetensors"))
        if _is_called_image_encoder(file.stem) and file != path
    ]
    files += sorted((parent / "clip_vision").glob("*.safetensors"))
    for candidate in (*(folder for folder in folders if is_part_folder(folder)), *files):
        try:
            parts, _ = find_parts([candidate], {})
        except BadInput:
            continue
        yield from parts


def face_lora(path: str | Path, model: LatentDiffusion) -> Adapter | None:
    """The LoRA of the denoiser in a file of FaceID; None if there is none.

    BadInput if it is for another denoiser. Attentions are counted down, up, middle, in each block
    first the self-attention and then that to the text.
    """
    path, known = Path(path), mappings_of_model(detach(model))
    weights = open_weights(path)
    blocks = transformer_blocks(known)
    tensors = {}
    for name in weights:
        if match := LORA.fullmatch(name):
            block, attention = divmod(int(match[1]), 2)
            stem = blocks[block] if block < len(blocks) else f"attention.{match[1]}"
            tensors[f"unet.{stem}.attn{attention + 1}.{match[2]}"] = weights[name]
    return place_adapter(tensors, known, f"the LoRA in {path.name}") if tensors else None


def _face_vectors(path: Path) -> Tensor:
    """The face vectors in a file, (k, d); BadInput if it holds anything else."""
    try:
        if path.suffix.lower() == ".npy":
            tensors = [torch.from_numpy(np.load(path, allow_pickle=False))]
        else:
            tensors = [*open_weights(path).values()]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path.name} cannot be read: {error}.") from None
    if len(tensors) != 1 or tensors[0].ndim not in (1, 2) or not tensors[0].is_floating_point():
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:3])
        raise BadInput(
            f"{path.name}: wanted the vector of a face, one tensor (d) or (k, d), "
            f"got {shapes or 'nothing'}."
        )
    return tensors[0] if tensors[0].ndim == 2 else tensors[0][None]


def _cross_attentions(part: nn.Module) -> list[CrossAttention]:
    return [layer for layer in part.modules() if isinstance(layer, CrossAttention)]


def _is_called_image_encoder(stem: str) -> bool:
    name = stem.lower().replace("-", "_")
    return "image_encoder" in name or "clip_vision" in name


def _misfit(where: str, config: Any, needs: Mapping[Any, int]) -> str:
    """Why an image encoder is not the one that an adapter was trained with."""
    wanted = (
        f"states of {needs['states']} numbers"
        if "states" in needs
        else f"a vector of {needs['vector']} numbers"
    )
    return (
        f"{where} makes vectors of {config.projection} and states of {config.width} numbers, "
        f"the image prompt needs {wanted}: take the encoder that it was trained with."
    )
