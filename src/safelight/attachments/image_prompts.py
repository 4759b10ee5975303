"""Image prompts in files: for which denoiser, with which eye; a model that hears pictures by them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from safelight.adapters.image_prompt import (
    AttentionTarget,
    Config,
    ImagePrompt,
    ImagePromptConditioner,
    fits,
)
from safelight.adapters.lora import Adapter
from safelight.attachments.lora_files import place, tables, transformer_blocks
from safelight.checkpoints import is_part
from safelight.checkpoints.assembly import build
from safelight.checkpoints.detach import plain
from safelight.checkpoints.foreign import find
from safelight.conditioners import text_readers
from safelight.denoisers.flux.network import Flux
from safelight.denoisers.unet.network import UNet
from safelight.errors import BadInput
from safelight.governance.licences import PartLicence
from safelight.layouts.detection import Piece
from safelight.model import LatentDiffusion, module, with_more
from safelight.nn.attention import CrossAttention
from safelight.nn.clip_vision import ImageEncoder
from safelight.runtime import ready
from safelight.weights.files import open_weights

FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL", 4096: "FLUX.1"}
"""By the width of the text: for which denoisers image prompts are made."""
LORA = re.compile(r"ip_adapter\.(\d+)\.(to_(?:q|k|v|out)_lora\.(?:down|up)\.weight)")


def with_image_prompt(
    model: LatentDiffusion,
    path: str | Path,
    scale: float = 1.0,
    encoder: str | Path | None = None,
    shown: Mapping[str, Any] | None = None,
    hints: Mapping[str, Any] | None = None,
    called: str = "given",
) -> LatentDiffusion:
    """The model with an image prompt beside its text: its prompts may give an ``image``, or what was made of one before
    (see ``ImagePromptConditioner``); those that give none are given what is ``shown``. The given model, whose weights are shared
    and stay as they are, goes on without. A LoRA that FaceID's files hold is not merged: ``face_lora`` reads it.

    ``encoder``: the file or folder of the image encoder; by default the model's own, or the one beside ``path``.
    ``hints``: ``{"shortcut": True}`` for FaceID Plus of the second version, by default what the file's name says; and
    ``image_encoder_heads`` and ``image_encoder_activation``, which no file of an encoder tells.
    ``called``: what its card says that it is shown.
    Raises BadInput if the file is no image prompt, or one for another denoiser, or if the encoder does not go with it.
    """
    path = Path(path)
    piece = read(path, hints or {})
    denoiser = plain(model).denoiser
    conditioner = model.conditioner
    reads = conditioner and any(reader.reads_weights for reader in text_readers(conditioner))
    if not isinstance(denoiser, UNet | Flux) or conditioner is None or not reads:
        raise BadInput(
            f"an image prompt is for a U-Net or FLUX that reads with text towers, not {model.card.name!r}."
        )
    places = fitting(piece.config, denoiser, path.name)
    like = next(module(denoiser).parameters())
    adapter = cast("ImagePrompt", ready(build(piece), like.device, like.dtype))
    image_encoder, found = (
        model.image_encoder,
        image_encoder_for(piece.config, model.image_encoder, path, encoder, hints or {}),
    )
    if found is not None:
        image_encoder = cast("ImageEncoder", ready(build(found), like.device, like.dtype))
    told = replace(
        model,
        conditioner=ImagePromptConditioner(
            conditioner, adapter, places, scale, image_encoder, shown
        ),
    )
    licences = [
        PartLicence(one.part, one.source, one.licence) for one in (piece, found) if one is not None
    ]
    return with_more(told, {f"{path.name}={called}": scale}, licences)


def read(path: Path, hints: Mapping[str, Any]) -> Piece:
    """The image prompt in a file, from its header."""
    version = {"shortcut": "yes"} if "plusv2" in path.name.lower().replace("-", "") else {}
    found, _ = find([path], {**version, **hints})
    if [one.part for one in found] != ["image prompt"]:
        raise BadInput(
            f"{path.name} holds {', '.join(one.part for one in found)}; wanted an image prompt (IP-Adapter)."
        )
    return found[0]


def fitting(config: Config, denoiser: UNet | Flux, where: str) -> list[AttentionTarget]:
    """For each of the denoiser's attentions that can hear pictures, its place in the adapter; BadInput if the adapter
    is for another denoiser.

    Theirs go down, up, and then through the middle, ours the middle first. Not for levels whose first attention asks
    the text alone: the upscaler's. FLUX hears pictures in each of its double blocks.
    """
    if isinstance(denoiser, Flux):
        shape = denoiser.config
        require_fit(config, (shape.width,) * shape.double, shape.text_width, where)
        return [AttentionTarget(number, shape.heads) for number in range(shape.double)]
    crosses = [
        _crosses(part) for part in (denoiser.encoder.down, denoiser.encoder.middle, denoiser.up)
    ]
    down, middle, up = (len(one) for one in crosses)
    numbers = [*range(down), *range(down + up, down + up + middle), *range(down, down + up)]
    flat = [cross for one in crosses for cross in one]
    widths = {number: cross.q.out_features for number, cross in zip(numbers, flat, strict=True)}
    require_fit(
        config,
        tuple(widths[number] for number in range(len(flat))),
        denoiser.config.text_width,
        where,
    )
    return [
        AttentionTarget(number, cross.heads) for number, cross in zip(numbers, flat, strict=True)
    ]


def require_fit(config: Config, widths: Sequence[int], text_width: int, where: str) -> None:
    """BadInput unless an adapter's attentions and text are as wide as the denoiser's, in the adapter's order."""
    if (config.widths, config.project.text_width) != (tuple(widths), text_width):
        told = [
            f"{len(each)} attentions of widths {', '.join(map(str, dict.fromkeys(each)))} and a text {wide} wide"
            f"{f' (as {FAMILIES[wide]})' if wide in FAMILIES else ''}"
            for each, wide in ((config.widths, config.project.text_width), (widths, text_width))
        ]
        raise BadInput(
            f"{where} is for a denoiser of {told[0]}; this one has {told[1]}: take one made for it."
        )


def image_encoder_for(
    config: Config,
    own: ImageEncoder | None,
    path: Path,
    encoder: str | Path | None,
    hints: Mapping[str, Any],
) -> Piece | None:
    """The file of the eye that an adapter sees with; None if there is none, or if it is the model's ``own``. BadInput
    if the one that was given is another's."""
    reads = config.project.reads
    if reads.keys() <= {"face"} or (
        encoder is None and own is not None and fits(own.config, reads)
    ):
        return None
    if encoder is None:
        found = next(
            (
                one
                for one in beside(path)
                if one.part == "image_encoder" and fits(one.config, reads)
            ),
            None,
        )
        if found is None and own is not None:
            raise BadInput(_unfit("the image encoder of the model", own.config, reads))
        return found
    found = next(
        (one for one in find([Path(encoder)], hints)[0] if one.part == "image_encoder"), None
    )
    if found is None:
        raise BadInput(f"{Path(encoder).name} is no image encoder that is known: wanted CLIP's.")
    if not fits(found.config, reads):
        raise BadInput(_unfit(Path(encoder).name, found.config, reads))
    return found


def beside(path: Path) -> Iterator[Piece]:
    """What lies where adapters are kept with their eyes: folders ``image_encoder`` near by, files that are called an
    image encoder or CLIP's vision, and those in a folder ``clip_vision``; what cannot be read is passed by."""
    near = path.parent.parent
    folders = [one / "image_encoder" for one in (path.parent, near, near / "models")]
    files = [
        one
        for one in sorted(path.parent.glob("*.safetensors"))
        if _named_image_encoder(one.stem) and one != path
    ]
    files += sorted((near / "clip_vision").glob("*.safetensors"))
    for one in (*(folder for folder in folders if is_part(folder)), *files):
        try:
            found, _ = find([one], {})
        except BadInput:
            continue
        yield from found


def face_lora(path: str | Path, model: LatentDiffusion) -> Adapter | None:
    """The LoRA of the denoiser that a file of FaceID holds beside its image prompt, to be merged as any other; None if
    it holds none. BadInput if it is for another denoiser.

    Attentions are counted as keys and values are: down, up, middle, each first to itself and then to the text.
    """
    path, known = Path(path), tables(plain(model))
    weights = open_weights(path)
    stems = transformer_blocks(known)
    file = {}
    for name in weights:
        if found := LORA.fullmatch(name):
            stem = (
                stems[int(found[1]) // 2]
                if int(found[1]) // 2 < len(stems)
                else f"attention.{found[1]}"
            )
            file[f"unet.{stem}.attn{int(found[1]) % 2 + 1}.{found[2]}"] = weights[name]
    return place(file, known, f"the LoRA in {path.name}") if file else None


def _crosses(part: nn.Module) -> list[CrossAttention]:
    return [one for one in part.modules() if isinstance(one, CrossAttention)]


def _named_image_encoder(stem: str) -> bool:
    plainly = stem.lower().replace("-", "_")
    return "image_encoder" in plainly or "clip_vision" in plainly


def _unfit(where: str, config: Any, reads: Mapping[Any, int]) -> str:
    made = (
        f"states of {reads['states']} numbers"
        if "states" in reads
        else f"a vector of {reads['vector']} numbers"
    )
    return (
        f"{where} makes vectors of {config.projection} and states of {config.width} numbers, the image prompt reads "
        f"{made}: take the encoder that it was trained with."
    )
