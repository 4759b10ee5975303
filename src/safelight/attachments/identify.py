"""What a small file is that changes a model, from its header alone: an adapter, or learned words."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from safelight.adapters import textual_inversion
from safelight.attachments.lora_files import PREFIXES, STRANGERS, split
from safelight.errors import BadInput
from safelight.weights.files import Weights

KINDS = {
    "hada": "LoHa",
    "lokr": "LoKr",
    "down": "LoRA",
    "up": "LoRA",
    "diff": "whole differences",
    "bias": "biases",
}
RANKS = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
WIDTHS = {  # of text: whose it is
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "Stable Diffusion XL",
    2048: "Stable Diffusion XL",
    4096: "Stable Diffusion 3 or FLUX",
}
TEXT_KEY = re.compile(r"(attn2.*to_k|cross_attn.*k_proj)$")
TOLD = (
    "modelspec.title",
    "modelspec.architecture",
    "modelspec.license",
    "ss_base_model_version",
    "ss_sd_model_name",
)
MOST_WORDS, MOST_NAMES = 64 << 20, 1000  # bytes and names of a file of learned words


def small_file(weights: Weights, name: str) -> dict[str, Any] | None:
    """The facts of an adapter or of learned words, as JSON values; None for a file that is neither.

    ``name``: that of the file, which learned words may be called by.
    """
    named = {key: split(key, {}) for key in weights if not key.startswith("<")}
    changes = {key: (path, what) for key, (path, what) in named.items() if what != "value"}
    if changes and 2 * len(changes) > len(weights):
        return {"what": "adapter", **_adapter(weights, changes)}
    if weights.bytes <= MOST_WORDS and len(weights) <= MOST_NAMES:
        try:
            words = textual_inversion.read(weights, weights.metadata, name)
        except BadInput:
            return None
        widths = sorted({one.shape[1] for vectors in words.values() for one in vectors})
        fits = dict.fromkeys(WIDTHS.get(width, f"text towers {width} wide") for width in widths)
        counts = {word: len(vectors[0]) for word, vectors in words.items()}
        return {"what": "words", "for": " and ".join(fits), "widths": widths, "vectors": counts}
    return None


def _adapter(weights: Weights, changes: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    shapes, types = weights.shapes, weights.types
    whats = Counter(what.split("_")[0] for _, what in changes.values())
    kinds = dict.fromkeys(kind for what, kind in KINDS.items() if whats[what])
    if whats["magnitude"]:
        kinds = {"DoRA": None, **kinds}
    ranks = sorted(
        {shapes[key][0] for key, (_, what) in changes.items() if what in RANKS and shapes[key]}
    )
    paths = dict.fromkeys(path.replace(".", "_") for path, _ in changes.values())
    towers = (
        "text_encoder:",
        *(one for part, some in PREFIXES.items() if part != "denoiser" for one in some),
    )
    text = sum(path.startswith(towers) for path in paths)
    return {
        "for": _family(
            paths, {path: shapes[key] for key, (path, what) in changes.items() if what == "down"}
        ),
        "kind": " and ".join(kinds),
        "rank": ranks[0] if len(ranks) == 1 else ranks,
        "layers": {"denoiser": len(paths) - text, "text towers": text},
        "words": [key for key in weights if key.startswith("<")],
        "precision": Counter(types[key] for key in changes).most_common(1)[0][0],
        "bytes": weights.bytes,
        "said": {key: weights.metadata[key] for key in TOLD if weights.metadata.get(key)},
    }


def _family(paths: Mapping[str, None], downs: Mapping[str, tuple[int, ...]]) -> str:
    """Whose layers it changes, by their names and by how wide the text is that they read."""
    if any(":" in path for path in paths):  # numbered, as cloneofsimo's trainer does
        return "Stable Diffusion 1 or 2"
    title = next(
        (
            one
            for pattern, one in STRANGERS.items()
            if any(re.search(pattern, f"{path}_") for path in paths)
        ),
        "",
    )
    if title == "Stable Diffusion 1, 2 or XL":
        wide = {
            WIDTHS.get(shape[1])
            for path, shape in downs.items()
            if TEXT_KEY.search(path) and len(shape) > 1
        }
        return wide.pop() or title if len(wide) == 1 else title
    return title or "no family that is known"
