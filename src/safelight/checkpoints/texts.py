"""How the families join their text towers, as data for the conditioner of ``conditioners.towers``."""

from collections.abc import Mapping, Sequence
from typing import Any

from safelight.conditioners.towers import Config
from safelight.config import read
from safelight.errors import BadInput, unknown
from safelight.nn.towers import Network
from safelight.nn.towers.t5 import Config as T5

_STATES = {"skip": 1, "norm": False}  # those before the last block, as they are
_L, _G, _T5 = {"pad": "end"}, {"pad": "zero"}, {"words": "t5", "pad": "zero", "chunks": 1}
_SIZES = ["original_size", "crop"]

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "sd1": {"towers": [_L]},
    "sd2": {"towers": [{**_G, "skip": 1}]},  # all blocks are there; the last is not used
    "sd2-folder": {"towers": [_G]},  # the last block was left out when it was written
    "sdxl": {
        "towers": [{**_L, **_STATES}, {**_G, **_STATES, "pooled": "projected"}],
        "sizes": [*_SIZES, "target_size"],
        "empty": "zeros",
    },
    "sdxl-refiner": {
        "towers": [{**_G, **_STATES, "pooled": "projected"}],
        "sizes": [*_SIZES, "aesthetic_score"],
    },
    "sd3": {
        "towers": [
            {**_L, **_STATES, "pooled": "projected"},
            {**_G, **_STATES, "pooled": "projected"},
            {**_T5, "length": 256, "row": 1},
        ]
    },
    "flux": {"towers": [{**_L, "row": None, "pooled": "plain", "chunks": 1}, {**_T5, "length": 512}]},
}


def kinds(family: str) -> list[str]:
    """Which network each tower of a family is, ``clip`` or ``t5``, in their order."""
    return [str(tower.get("words", "clip")) for tower in FAMILIES[family]["towers"]]


def joined(family: str, networks: Sequence[Network | None], t5_width: int = 4096) -> Config:
    """The conditioner of a family whose towers have these shapes, in its order.

    None for a T5 that is not there: zeros of ``t5_width``, which the denoiser knows, stand in its place. BadInput for
    a family that has no such towers, or if any other is missing.
    """
    if family not in FAMILIES:
        raise unknown("family of text towers:", family, FAMILIES)
    towers = FAMILIES[family]["towers"]
    if len(networks) != len(towers):
        raise BadInput(f"{family} reads with {len(towers)} text towers, got {len(networks)}; add the others' files.")
    filled = []
    for number, (network, tower) in enumerate(zip(networks, towers, strict=True)):
        if network is None and tower.get("words") != "t5":
            raise BadInput(f"text tower {number + 1} of {family} is missing; add the file that holds it.")
        there = {"network": network} if network is not None else {"network": T5(width=t5_width), "absent": True}
        filled.append({**tower, **there})
    return read(Config, {**FAMILIES[family], "towers": filled})
