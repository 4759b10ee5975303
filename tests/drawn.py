"""Recordings whose weights are not kept but drawn from their names, the same everywhere."""

import atexit
import json
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from hashlib import shake_256
from math import log2, prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

DRAWN = Path(__file__).parent / "recorded" / "drawn"
TYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "I32": torch.int32,
    "I64": torch.int64,
}


SCHEDULES = {"sd1": (0.00085, 0.012), "sd2-v": (0.00085, 0.012), "sd-x4-upscaler": (0.0001, 0.02)}
"""The first and last beta of the schedule whose table a recording's file holds.

Their square roots are evenly spaced.
"""


@cache
def folder(name: str) -> Path | None:
    """A recording with its weights, made once a process; None if there is none of this name."""
    if not (DRAWN / name).is_dir():
        return None
    room = Path(tempfile.mkdtemp(prefix="safelight-"))
    atexit.register(shutil.rmtree, room, ignore_errors=True)
    fill(name, room / name)
    return room / name


def fill(name: str, place: Path) -> None:
    """Write a recording to ``place``: the files that are kept, and drawn weights."""
    shutil.copytree(DRAWN / name, place, dirs_exist_ok=True)
    with zipfile.ZipFile(DRAWN / "layouts.zip") as archive:
        for member in (item for item in archive.namelist() if item.startswith(f"{name}/")):
            path = place / member.removeprefix(f"{name}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix not in (".safetensors", ".ckpt"):  # a configuration or a tokenizer
                path.write_bytes(archive.read(member))
                continue
            listing = json.loads(archive.read(member))
            weights = {
                key: draw(f"{member}/{key}", *item) for key, item in listing["tensors"].items()
            }
            weights |= {key: table for key, table in tables(name).items() if key in weights}
            if path.suffix == ".ckpt":
                torch.save({"epoch": 0, "global_step": 1, "state_dict": weights}, path)
            else:
                save_file(weights, path, listing["metadata"])


def tables(name: str) -> dict[str, Tensor]:
    """The tables of the training schedule that a recording's file holds."""
    if name not in SCHEDULES:
        return {}
    first, last = SCHEDULES[name]
    betas = torch.linspace(first**0.5, last**0.5, 1000, dtype=torch.float64).square()
    return {"betas": betas.float(), "alphas_cumprod": (1 - betas).cumprod(0).float()}


def noise(name: str, shape: Sequence[int]) -> Tensor:
    """Eight-bit numbers from the SHAKE-256 hash of the name."""
    raw = bytearray(shake_256(name.encode()).digest(max(prod(shape), 1)))
    return torch.frombuffer(raw, dtype=torch.int8)[: prod(shape)].reshape(tuple(shape))


def draw(name: str, kind: str, shape: Sequence[int]) -> Tensor:
    """Weights: eight bits each and a power of two, which all of the types hold exactly.

    Matrices keep the size of what passes through them, what multiplies a normed feature lies around
    1, biases around 0.
    """
    if kind.startswith("I"):  # places, and counts of updates
        return torch.arange(prod(shape)).reshape(tuple(shape)).to(TYPES[kind])
    bits = noise(name, shape)
    if not shape:
        values = 2.0 ** (bits % 3)
    elif len(shape) > 1:
        fan = prod(shape[1:]) if shape[0] > 1 else shape[-1]
        values = bits * 2.0 ** -round(log2(74 * fan**0.5))  # 74 is their deviation
    elif name.endswith(("weight", "scale", "running_var")):
        values = 1 + bits.div(2, rounding_mode="floor") / 128
    else:
        values = bits / 512
    return values.to(TYPES[kind])
