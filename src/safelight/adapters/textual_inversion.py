"""Textual-inversion embeddings (arXiv 2208.01618): vectors that stand for a name in a prompt.

Four kinds of files are in use: tensors by the names themselves (diffusers), ``emb_params`` with the
name in the file's name, the web UI's dictionary, in a pickle or flattened into names, and one
tensor for each text encoder (SDXL, Stable Diffusion 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from safelight.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

WEB_UI = "string_to_param."
TEXT_ENCODERS = ("clip_l", "clip_g", "t5xxl")
UNNAMED = ("emb_params", "embedding")


def read(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str
) -> dict[str, list[Tensor]]:
    """The embeddings of a file: for each name vectors (n, width), one tensor a text encoder.

    ``tensors`` and ``metadata`` are the file's, nested names joined by dots; ``name`` is used where
    the file holds no name. Raises BadInput if it holds no embeddings, or anything else.
    """
    unnamed = [key for key in tensors if key in UNNAMED or key.startswith(WEB_UI)]
    by_encoder = [key for key in tensors if key in TEXT_ENCODERS]
    if unnamed or by_encoder:
        of_web_ui = unnamed and unnamed[0].startswith(WEB_UI)
        own_name = metadata.get("name", name) if of_web_ui else name
        embeddings = {own_name: [_vectors(key, tensors[key]) for key in unnamed or by_encoder]}
        others = [key for key in tensors if key not in unnamed and key not in by_encoder]
    else:
        names = [key for key in tensors if key == key.strip() and ":" not in key and "." not in key]
        embeddings = {key: [_vectors(key, tensors[key])] for key in names}
        others = [key for key in tensors if key not in embeddings and ":" not in key]
    if others or not embeddings:
        found = ", ".join([*others, *tensors][:3]) or "nothing"
        raise BadInput(
            f"{name} holds no textual-inversion embeddings: wanted a tensor by its name, "
            f"emb_params or string_to_param, got {found}."
        )
    return embeddings


def _vectors(key: str, tensor: Tensor) -> Tensor:
    vectors = tensor[None] if tensor.ndim == 1 else tensor
    if vectors.ndim != 2 or not vectors.is_floating_point() or 0 in vectors.shape:
        raise BadInput(
            f"{key}: wanted vectors of shape (width) or (n, width), got {tuple(tensor.shape)}."
        )
    return vectors.float()
