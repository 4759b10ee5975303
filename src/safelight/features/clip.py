"""CLIP (Radford et al., arXiv 2103.00020): vectors of pictures that lie where those of texts do.
The user gives its weights; with those of its text encoder as well, texts can be compared to
pictures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn import clip_vision
from safelight.nn.pretrained import at_least, native, weights_of
from safelight.nn.text_models.clip import Config as TextConfig
from safelight.nn.text_models.clip.network import Clip
from safelight.types.tensors import Images

HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""How many heads public image encoders of these widths have; others are taken to be 64 wide."""
WIDEST_QUICK = 1024
"""The greatest width of OpenAI's image encoders, whose activation is the quick GELU."""

BLOCK = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "out",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
IMAGE = {
    "vision_model.embeddings.patch_embedding.weight": "patches.weight",
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.position_embedding.weight": "positions",
    "visual_projection.weight": "projection.weight",
}
TEXT = {
    "text_model.embeddings.token_embedding.weight": "embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positions",
    "text_projection.weight": "projection.weight",
}
NORMS = {
    "vision_model.pre_layrnorm": "norm1",  # so spelled there
    "vision_model.post_layernorm": "norm2",
    "text_model.final_layer_norm": "norm",
}


@dataclass(frozen=True)
class Config:
    """``weights``: a safetensors file with the names of transformers' ``CLIPModel`` (both encoders)
    or ``CLIPVisionModelWithProjection`` (pictures alone).

    ``heads``: of the image encoder's attention; 0: as the public ones of its width have.
    """

    weights: str
    heads: int = 0

    def build(self) -> "CLIP":
        return CLIP(self)


class CLIP(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] to maps of five depths and vectors of the space that texts
    share. It never trains. Gradients reach the images through ``maps``; ``vector`` sees 8-bit
    pictures."""

    min_size = 1
    heads: tuple[Tensor, ...] = ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        tensors = weights_of(Path(config.weights))
        image, text = (_translated(tensors, kind) for kind in ("vision_model", "text_model"))
        if "projection.weight" not in image or "patches.weight" not in image:
            raise BadInput(
                f"{config.weights!r} is not CLIP in the names of transformers: wanted "
                "vision_model.… and visual_projection.weight."
            )
        self.image = _image_encoder(image, config.heads)
        self.text = _text_encoder(text) if "projection.weight" in text else None
        try:
            self.image.load_state_dict(image)
            if self.text is not None:
                self.text.load_state_dict(text)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise BadInput(
                f"{config.weights!r} is not CLIP as it was published: {reason}"
            ) from None
        self.name = f"clip-vit-{self.image.config.width}-{self.image.config.patch}"
        self.requires_grad_(False)

    def maps(self, images: Images) -> tuple[Tensor, ...]:
        """The patches after blocks at five even depths (all, if it has fewer), (b, width, h, w), of
        images scaled to its own size."""
        at_least(self.name, self.min_size, images)
        side, depth = self.image.config.size, len(self.image.blocks)
        mean, deviation = (
            torch.tensor(value, device=images.device, dtype=images.dtype).view(3, 1, 1)
            for value in (clip_vision.MEAN, clip_vision.STD)
        )
        pixels = ((native(images, side) + 1) / 2 - mean) / deviation
        depths = sorted({depth * number // 5 for number in range(1, 6)} - {0})
        states = [self.image.hidden_states(pixels, number)[:, 1:] for number in depths]
        places = side // self.image.config.patch
        return tuple(rearrange(value, "b (h w) d -> b d h w", h=places) for value in states)

    def vector(self, images: Images) -> Tensor:
        """(b, d): the projected vector, of the middle square as CLIP is shown pictures, not
        normalised."""
        y: Tensor = self.image(images)
        return y

    def text_vector(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """(b, d): the projected vector of texts as ids, each with CLIP's begin and end; longer ones
        are cut.

        BadInput if the file holds no text encoder.
        """
        if self.text is None:
            raise BadInput(
                f"{self.config.weights!r} holds no text encoder; name a file of CLIPModel."
            )
        longest = self.text.config.length
        vectors = []
        for ids in tokens:
            cut = list(ids) if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]
            embedded = self.text.embedding(torch.tensor([cut]))
            _, states = self.text(embedded, full=True)
            vectors.append(self.text.project(states[0, -1]))
        return torch.stack(vectors)


def _translated(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors of one encoder by the names that ours has; position numbers are left out."""
    named = IMAGE if kind == "vision_model" else TEXT
    translated: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, part = name.rpartition(".")
        block = re.fullmatch(rf"{kind}\.encoder\.layers\.(\d+)\.(.+)", stem)
        if name in named:
            translated[named[name]] = tensor
        elif stem in NORMS and name.startswith(f"{kind}."):
            translated[f"{NORMS[stem]}.{part}"] = tensor
        elif block and block[2] in BLOCK:
            translated[f"blocks.{block[1]}.{BLOCK[block[2]]}.{part}"] = tensor
        elif block and block[2] == "self_attn.q_proj":
            parts = [tensors.get(name.replace("q_proj", other)) for other in ("k_proj", "v_proj")]
            whole = [tensor, *(tensor for tensor in parts if tensor is not None)]
            translated[f"blocks.{block[1]}.qkv.{part}"] = torch.cat(whole)
    return translated


def _depth(tensors: Mapping[str, Tensor]) -> int:
    return sum(name.endswith(".out.weight") for name in tensors)


def _image_encoder(tensors: Mapping[str, Tensor], heads: int) -> clip_vision.ImageEncoder:
    width, _, patch, _ = tensors["patches.weight"].shape
    side = int((len(tensors["positions"]) - 1) ** 0.5) * patch
    return clip_vision.Config(
        width=width,
        depth=_depth(tensors),
        heads=heads or HEADS.get(width, max(1, width // 64)),
        hidden=len(tensors["blocks.0.fc1.weight"]),
        activation="quick_gelu" if width <= WIDEST_QUICK else "gelu",
        patch=patch,
        size=side,
        projection=len(tensors["projection.weight"]),
    ).build()


def _text_encoder(tensors: Mapping[str, Tensor]) -> Clip:
    vocabulary, width = tensors["embedding.weight"].shape
    return TextConfig(
        width=width,
        depth=_depth(tensors),
        heads=max(1, width // 64),
        hidden=len(tensors["blocks.0.fc1.weight"]),
        activation="quick_gelu" if width <= 768 else "gelu",
        vocabulary=vocabulary,
        length=len(tensors["positions"]),
        projection=len(tensors["projection.weight"]),
    ).build()
