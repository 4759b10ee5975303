"""How the families join their text encoders, as data for the conditioner of
``conditioners.text_encoders``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from safelight.conditioners._encoder import EncoderConfig
from safelight.conditioners.text_encoders import Config
from safelight.config import read
from safelight.errors import BadInput, unknown
from safelight.nn.text_models import TextModelConfig
from safelight.nn.text_models.clip import Config as Clip
from safelight.nn.text_models.t5 import Config as T5

_STATES = {"skip": 1, "norm": False}  # those before the last block, as they are
_L, _G, _T5 = (
    {"padding": "end"},
    {"padding": "zero"},
    {"tokenizer": "t5", "padding": "zero", "max_chunks": 1},
)
_LM = {"padding": "own", "max_chunks": 1, "length": 512, "norm": False}
_BERT = {"tokenizer": "bert", "padding": "zero", "max_chunks": 1}
_SIZES = ["original_size", "crop"]

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "sd1": {"encoders": [_L]},
    "sd2": {"encoders": [{**_G, "skip": 1}]},
    "sdxl": {
        "encoders": [{**_L, **_STATES}, {**_G, **_STATES, "pooled": "projected"}],
        "size_conditions": [*_SIZES, "target_size"],
        "null_prompt": "zeros",
    },
    "sdxl-refiner": {
        "encoders": [{**_G, **_STATES, "pooled": "projected"}],
        "size_conditions": [*_SIZES, "aesthetic_score"],
    },
    "sd3": {
        "encoders": [
            {**_L, **_STATES, "pooled": "projected"},
            {**_G, **_STATES, "pooled": "projected"},
            {**_T5, "length": 256, "group": 1},
        ]
    },
    "flux2": {"encoders": [{**_LM, "tokenizer": "mistral"}]},
    "flux2-klein": {"encoders": [{**_LM, "tokenizer": "qwen"}]},
    "ldm-text": {"encoders": [_BERT]},
    "ldm-layout": {"encoders": [{**_BERT, "tokenizer": "ids", "padding": "own"}]},
    "flux": {
        "encoders": [
            {**_L, "group": None, "pooled": "plain", "max_chunks": 1},
            {**_T5, "length": 512},
        ]
    },
}


def kinds(family: str) -> list[str]:
    """The tokenizer that each text encoder of a family reads, ``clip``, ``t5``, ``bert``, ``ids``,
    ``mistral`` or ``qwen``, in order.

    BadInput if it has no such text encoders.
    """
    if family not in FAMILIES:
        raise unknown("family of text encoders:", family, FAMILIES)
    words = [str(encoder.get("tokenizer", "clip")) for encoder in FAMILIES[family]["encoders"]]
    return ["bert" if one == "ids" else one for one in words]


def joined(family: str, networks: Sequence[TextModelConfig | None], t5_width: int = 4096) -> Config:
    """The conditioner of a family whose text encoders have these shapes, in its order.

    None for a T5 that is not there: zeros of ``t5_width``, which the denoiser knows, stand in its
    place. BadInput for a family that has no such text encoders, or if any other is missing.
    """
    wanted, filled = kinds(family), []
    if len(networks) != len(wanted):
        raise BadInput(
            f"{family} has {len(wanted)} text encoders, got {len(networks)}; add the others' files."
        )
    for number, (network, encoder) in enumerate(
        zip(networks, FAMILIES[family]["encoders"], strict=True)
    ):
        if network is None and wanted[number] != "t5":
            raise BadInput(
                f"text encoder {number + 1} of {family} is missing; add the file that holds it."
            )
        if network is None:
            filled.append({**encoder, "network": T5(width=t5_width), "missing": True})
        else:
            skip = 0 if _cut(encoder, network) else encoder.get("skip", 0)
            length = {"length": network.length} if network.length else {}
            filled.append({**length, **encoder, "network": network, "skip": skip})
    return read(Config, {**FAMILIES[family], "encoders": filled})


def _cut(encoder: Mapping[str, Any], network: TextModelConfig) -> bool:
    """Whether the last block, which is not used, was left out when the encoder was written: with
    it went the projection (diffusers' folders of Stable Diffusion 2, Waifu Diffusion's files)."""
    return encoder.get("norm", True) and not network.projection


def cut(
    encoder: EncoderConfig, state: Mapping[str, Tensor]
) -> tuple[TextModelConfig, Mapping[str, Tensor]]:
    """A text encoder's network and weights without what is never used, for layouts that read the
    last state: SD 2's."""
    network = encoder.network
    if (
        not isinstance(network, Clip)
        or not encoder.skip
        or not encoder.norm
        or encoder.pooled != "none"
    ):
        return network, state
    kept = network.depth - encoder.skip
    unused = (
        *(f"blocks.{number}." for number in range(kept, network.depth)),
        "projection.",
        "temperature",
    )
    left = {name: one for name, one in state.items() if not name.startswith(unused)}
    return replace(network, depth=kept, projection=0, temperature=False), left
