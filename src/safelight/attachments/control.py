"""Attaching control by a picture: ControlNet, T2I-adapter, control LoRA, or the model itself."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from safelight.adapters.lora import Merged
from safelight.attachments.licences import licence_of
from safelight.attachments.lora_files import adaptable_parts, is_adapter, read_adapter
from safelight.attachments.specs import ControlSpec
from safelight.checkpoints.assembly import build_part
from safelight.checkpoints.parts import find_parts
from safelight.config import kind_of
from safelight.errors import BadInput
from safelight.governance.licences import PartLicence
from safelight.media.pictures import read_picture, to_bytes
from safelight.model import LatentDiffusion, with_more
from safelight.nn.control import Branch, ChannelConditioned, Controlled, Encode, encode_picture
from safelight.runtime import ready
from safelight.types.networks import Autoencoder, Denoiser

MODES = {1: "L", 4: "RGBA"}
"""Pillow's mode of a control picture by its number of channels, else RGB."""


def attach_control(
    model: LatentDiffusion,
    spec: ControlSpec,
    width: int | None = None,
    height: int | None = None,
) -> LatentDiffusion:
    """The model whose denoiser is controlled by a picture, resized to the pictures to be made.

    The file is a ControlNet or a T2I-adapter, as one file or a folder, or a control LoRA; none for
    a model that takes a picture itself (FLUX.1 Canny and Depth). The picture is the map that it
    was trained with (edges, depth), black to white; for inpainting, what is to be painted is
    transparent. Raises BadInput if the file holds no control, or control of another denoiser.
    """
    if model.denoiser is None:
        raise BadInput(f"the model {model.card.name!r} has no denoiser that could be controlled.")
    size = (width or model.card.size[1], height or model.card.size[0])
    if spec.file is not None and not is_adapter(spec.file):
        return _with_branch(model, spec.file, spec, size)
    return _with_picture(model, spec, size)


def _with_branch(
    model: LatentDiffusion, file: Path, spec: ControlSpec, size: tuple[int, int]
) -> LatentDiffusion:
    """The model with a control network next to its denoiser."""
    parts, _ = find_parts([file], {})
    if [part.part for part in parts] != ["control"]:
        raise BadInput(
            f"{file} holds {', '.join(part.part for part in parts)}; "
            "wanted a ControlNet or a T2I-adapter."
        )
    (part,) = parts
    assert model.denoiser is not None
    weight = _first_weight(model)
    branch = cast("Branch", ready(build_part(part), weight.device, weight.dtype))
    picture = _read_picture(spec.picture, size, MODES.get(branch.hint_channels, "RGB"))
    with torch.no_grad():
        denoiser = Controlled(
            model.denoiser,
            branch,
            picture.to(weight.device),
            spec.scale,
            encode=_encoder(model.autoencoder),
            mode=spec.kind,
        )
    licence = PartLicence("control", part.source, part.licence)
    attached = {f"{file.name}={spec.picture.name}": spec.scale}
    return with_more(replace(model, denoiser=denoiser), attached, [licence])


def _with_picture(
    model: LatentDiffusion, spec: ControlSpec, size: tuple[int, int]
) -> LatentDiffusion:
    """The model whose denoiser takes a picture in further channels, by a control LoRA or itself."""
    assert model.denoiser is not None
    picture = 2 * _read_picture(spec.picture, size, "RGB").to(_first_weight(model).device) - 1
    latents = encode_picture(picture, _encoder(model.autoencoder))
    _merge_control_lora(model, spec.file, spec.scale)
    denoiser: Denoiser = ChannelConditioned(model.denoiser, latents)
    file = spec.file
    attached = {} if file is None else {file.name: spec.scale}
    licences = [] if file is None else [licence_of("adapter", file)]
    return with_more(replace(model, denoiser=denoiser), attached, licences)


def _merge_control_lora(model: LatentDiffusion, file: Path | None, scale: float) -> None:
    """Merge the control LoRA of a file; BadInput if the denoiser then takes no picture."""
    merged = Merged(adaptable_parts(model))
    if file is not None:
        adapter = read_adapter(file, model)
        if not adapter.widens(merged.parts):
            raise BadInput(f"{file.name} is a LoRA without control: merge it with --lora.")
        merged.use({adapter: scale})
    config = vars(merged.parts["denoiser"])["config"]
    if kind_of(config) != "flux" or config.extra_channels != config.channels:
        merged.clear()
        raise BadInput(
            f"the model {model.card.name!r} takes no picture itself: "
            "name the file that controls it, FILE=PICTURE."
        )


def _first_weight(model: LatentDiffusion) -> Tensor:
    """A weight of the denoiser, which has its device and precision."""
    return next(adaptable_parts(model)["denoiser"].parameters())


def _read_picture(path: Path, size: tuple[int, int], mode: str) -> Tensor:
    """A picture, resized, as (1, channels, h, w) from 0 to 1."""
    picture = read_picture(path, str(path), transparent=mode == "RGBA")
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    return to_bytes(picture, mode)[None].float() / 255


def _encoder(autoencoder: Autoencoder | None) -> Encode | None:
    """The function from images to the mode of their latents, if there is an autoencoder."""
    if autoencoder is None:
        return None
    return torch.no_grad()(lambda images: autoencoder.encode(images).mode())
