"""IP-Adapter's files: which cross-attention each key and value is for, and a model that hears pictures by them."""

from dataclasses import replace
from math import isqrt
from pathlib import Path

import torch
from torch import nn

from safelight.adapters.image_prompt import Config, ImagePrompt, WithPictures
from safelight.checkpoints.dialects.transformers_clip import blocks
from safelight.checkpoints.native import load_strictly
from safelight.checkpoints.table import Rule, Table, layer
from safelight.checkpoints.weights import Weights, licence_of, open_weights
from safelight.denoisers.unet import UNet
from safelight.errors import BadInput
from safelight.model import LatentDiffusion, with_more
from safelight.nn.attention import CrossAttention
from safelight.nn.clip_vision import Config as EyeConfig
from safelight.nn.clip_vision import Eye
from safelight.types import Weighing

VISION = "vision_model"
FIRST = "image_proj.proj.weight"


def with_image_prompt(
    model: LatentDiffusion, path: str | Path, scale: float = 1.0, encoder: str | Path | None = None
) -> LatentDiffusion:
    """The model with an image prompt beside its text: its prompts may give an ``image``, if the file of the
    ``encoder`` is there that makes vectors of them, or an ``image_vector``. The given model, whose weights are shared
    and stay as they are, goes on without.

    Raises BadInput if the file is no image prompt of the first kind, or one for another denoiser.
    """
    if not isinstance(model.denoiser, UNet) or not isinstance(model.conditioner, Weighing):
        raise BadInput(f"an image prompt is for a U-Net that reads with text towers; {model.card.name!r} is none.")
    adapter = read(open_weights(Path(path)), model.denoiser, Path(path).name)
    eye = None if encoder is None else read_eye(open_weights(Path(encoder)), Path(encoder).name)
    if eye is not None and eye.config.projection != adapter.config.picture_width:
        raise BadInput(
            f"{Path(encoder or '').name} makes vectors of {eye.config.projection} numbers, the image prompt reads "
            f"{adapter.config.picture_width}: take the encoder that it was trained with."
        )
    eye = None if eye is None else eye.to(next(model.denoiser.parameters()))
    licences = [licence_of("image prompt", Path(one)) for one in (path, encoder) if one is not None]
    told = replace(model, conditioner=WithPictures(model.conditioner, adapter, scale, eye))
    return with_more(told, {Path(path).name: scale}, licences)


def read(weights: Weights, denoiser: UNet, where: str) -> ImagePrompt:
    """The adapter in a file, for this denoiser."""
    shapes = weights.shapes
    if FIRST not in shapes or "image_proj.norm.weight" not in shapes:
        raise BadInput(f"{where} is no image prompt that is known: wanted {FIRST}, the first kind of IP-Adapter.")
    text_width = shapes["image_proj.norm.weight"][0]
    order = _order(denoiser)
    layers = [(cross.q.out_features, cross.heads) for cross in _crosses(denoiser)]
    wide, picture_width = shapes[FIRST]
    if text_width != denoiser.config.text_width:
        raise BadInput(
            f"{where} is for a denoiser of a text {text_width} wide; this one's is {denoiser.config.text_width}."
        )
    with torch.device("meta"):
        adapter = Config(picture_width, text_width, max(1, wide // text_width), tuple(layers)).build()
    state = dict(table(order).read(weights, adapter.state_dict(), where))
    load_strictly(adapter, state, where, assign=True)
    return adapter.to(next(denoiser.parameters()))


def table(order: list[int]) -> Table:
    """The rules; ``order``: the file's layer n is our layer ``order[n]``. The file counts self-attentions too."""
    rules = [*layer("project", "image_proj.proj"), *layer("norm", "image_proj.norm")]
    for theirs, ours in enumerate(order):
        names = tuple(f"ip_adapter.{2 * theirs + 1}.to_{one}_ip.weight" for one in "kv")
        rules.append(Rule(f"kv.{ours}.weight", names))
    return Table(tuple(rules))


def read_eye(weights: Weights, where: str) -> Eye:
    """The image encoder in a file of transformers' ``CLIPVisionModelWithProjection``."""
    shapes = weights.shapes
    needed = ("patch_embedding.weight", "position_embedding.weight")
    if not {f"{VISION}.embeddings.{one}" for one in needed} | {"visual_projection.weight"} <= shapes.keys():
        raise BadInput(f"{where} is no image encoder that is known: wanted CLIP's, with visual_projection.weight.")
    width, _, patch, _ = shapes[f"{VISION}.embeddings.patch_embedding.weight"]
    side = isqrt(shapes[f"{VISION}.embeddings.position_embedding.weight"][0] - 1)
    heads = {1280: 16, 1664: 16, 1024: 16, 768: 12}.get(width, max(1, width // 64))
    config = EyeConfig(
        width=width,
        depth=sum(name.endswith(".self_attn.out_proj.weight") for name in shapes),
        heads=heads,
        hidden=shapes[f"{VISION}.encoder.layers.0.mlp.fc1.weight"][0],
        activation="quick_gelu" if width <= 1024 else "gelu",
        patch=patch,
        size=side * patch,
        projection=shapes["visual_projection.weight"][0],
    )
    with torch.device("meta"):
        eye = config.build()
    state = dict(eye_table(config).read(weights, eye.state_dict(), where))
    load_strictly(eye, state, where, assign=True)
    return eye


def eye_table(config: EyeConfig) -> Table:
    """The rules of an image encoder."""
    rules = [
        Rule("patches.weight", (f"{VISION}.embeddings.patch_embedding.weight",)),
        Rule("first", (f"{VISION}.embeddings.class_embedding",)),
        Rule("positions", (f"{VISION}.embeddings.position_embedding.weight",)),
        *layer("norm1", f"{VISION}.pre_layrnorm"),
        *layer("norm2", f"{VISION}.post_layernorm"),
        *layer("projection", "visual_projection", bias=False),
    ]
    return Table((*rules, *blocks(f"{VISION}.", config.depth)), ignored=rf"{VISION}\.embeddings\.position_ids")


def _crosses(module: nn.Module) -> list[CrossAttention]:
    return [one for one in module.modules() if isinstance(one, CrossAttention)]


def _order(denoiser: UNet) -> list[int]:
    """Our number of each of the file's layers: theirs go down, up, and then through the middle, ours the middle first.

    Not for levels whose first attention asks the text alone: the upscaler's.
    """
    down, middle = len(_crosses(denoiser.encoder.down)), len(_crosses(denoiser.encoder.middle))
    count = len(_crosses(denoiser))
    return [*range(down), *range(down + middle, count), *range(down, down + middle)]
