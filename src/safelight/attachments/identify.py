"""Identifying attachments from the header of a file: LoRA and its kin, or embeddings."""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any

from safelight.attachments.lora_names import PREFIXES, family_title, split_name
from safelight.errors import BadInput
from safelight.weights.files import Weights

METHODS = {
    "hada": "LoHa",
    "lokr": "LoKr",
    "down": "LoRA",
    "up": "LoRA",
    "diff": "whole differences",
    "bias": "biases",
}
"""The method of an adapter, by the beginning of its tensors' names."""

RANK_TENSORS = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
"""The tensors whose first size is the rank."""

TEXT_WIDTHS = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "Stable Diffusion XL",
    2048: "Stable Diffusion XL",
    4096: "Stable Diffusion 3 or FLUX",
}
"""The family whose text has this width."""

TEXT_KEY = re.compile(r"(attn2.*to_k|cross_attn.*k_proj)$")
METADATA = (
    "modelspec.title",
    "modelspec.architecture",
    "modelspec.license",
    "ss_base_model_version",
    "ss_sd_model_name",
)
"""The metadata that is shown."""

MAX_EMBEDDING_BYTES, MAX_EMBEDDING_NAMES = 64 << 20, 1000


def identify(weights: Weights, name: str) -> dict[str, Any] | None:
    """The facts of an adapter or of embeddings, as JSON values; None for any other file.

    ``name`` is that of the file, for an embedding without a name of its own.
    """
    split = {key: split_name(key, {}) for key in weights if not key.startswith("<")}
    changes = {key: (path, tensor) for key, (path, tensor) in split.items() if tensor != "value"}
    if changes and 2 * len(changes) > len(weights):
        return {"what": "adapter", **_adapter(weights, changes)}
    if weights.bytes > MAX_EMBEDDING_BYTES or len(weights) > MAX_EMBEDDING_NAMES:
        return None
    return _embeddings(weights, name)


def _embeddings(weights: Weights, name: str) -> dict[str, Any] | None:
    """The facts of textual-inversion embeddings; None if the file holds anything else."""
    from safelight.adapters import textual_inversion

    web_ui = textual_inversion.WEB_UI
    if any("." in key and ":" not in key and not key.startswith(web_ui) for key in weights):
        return None  # names of modules: not even the tensors of other names need be read
    try:
        embeddings = textual_inversion.read(weights, weights.metadata, name)
    except BadInput:
        return None
    widths = sorted({item.shape[1] for vectors in embeddings.values() for item in vectors})
    families = (TEXT_WIDTHS.get(width, f"text encoders {width} wide") for width in widths)
    return {
        "what": "embeddings",
        "for": " and ".join(dict.fromkeys(families)),
        "widths": widths,
        "vectors": {key: len(vectors[0]) for key, vectors in embeddings.items()},
    }


def _adapter(weights: Weights, changes: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The facts of an adapter; ``changes`` are the module and the tensor of each name."""
    shapes, types = weights.shapes, weights.types
    counts = Counter(tensor.split("_")[0] for _, tensor in changes.values())
    methods = ["DoRA"] if counts["magnitude"] else []
    methods += [method for tensor, method in METHODS.items() if counts[tensor]]
    ranks = sorted(
        {
            shapes[key][0]
            for key, (_, tensor) in changes.items()
            if tensor in RANK_TENSORS and shapes[key]
        }
    )
    paths = dict.fromkeys(path.replace(".", "_") for path, _ in changes.values())
    encoders = (prefixes for part, prefixes in PREFIXES.items() if part != "denoiser")
    of_text = ("text_encoder:", *chain.from_iterable(encoders))
    text = sum(path.startswith(of_text) for path in paths)
    downs = {path: shapes[key] for key, (path, tensor) in changes.items() if tensor == "down"}
    return {
        "for": _family(paths, downs),
        "kind": " and ".join(dict.fromkeys(methods)),
        "rank": ranks[0] if len(ranks) == 1 else ranks,
        "layers": {"denoiser": len(paths) - text, "text encoders": text},
        "embeddings": [key for key in weights if key.startswith("<")],
        "precision": Counter(types[key] for key in changes).most_common(1)[0][0],
        "bytes": weights.bytes,
        "metadata": {key: weights.metadata[key] for key in METADATA if weights.metadata.get(key)},
    }


def _family(paths: Mapping[str, None], downs: Mapping[str, tuple[int, ...]]) -> str:
    """The family that an adapter is for, by the names of its layers and the width of its text."""
    if any(":" in path for path in paths):  # cloneofsimo's numbers
        return "Stable Diffusion 1 or 2"
    title = family_title(f"{path}_" for path in paths)
    if title == "Stable Diffusion 1, 2 or XL":
        widths = {
            TEXT_WIDTHS.get(shape[1])
            for path, shape in downs.items()
            if TEXT_KEY.search(path) and len(shape) > 1
        }
        return widths.pop() or title if len(widths) == 1 else title
    return title or "no family that is known"
