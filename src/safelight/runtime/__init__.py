"""Where and how finely a model computes: devices and precision. Parts keep plain weights."""

from typing import Literal

import torch
from torch import nn

from safelight.errors import BadInput, unknown
from safelight.model import LatentDiffusion
from safelight.nn.kernels import Quick

Precision = Literal["auto", "fp32", "bf16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def device_of(name: str) -> torch.device:
    """A device by name; ``auto`` is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"device: wanted auto, cpu, cuda, cuda:1 or mps, got {name!r}.") from None
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= there.get(device.type, 0):
        raise BadInput(
            f"device: {name!r} was asked for, but no such device can be used here; take cpu."
        )
    return device


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """A precision by name; ``auto`` is bf16 where the hardware multiplies it faster than fp32."""
    if precision == "auto":
        return torch.bfloat16 if _bf16_is_fast(device) else torch.float32
    if precision not in DTYPES:
        raise unknown("precision", precision, ["auto", *DTYPES])
    return DTYPES[precision]


def prepare(
    model: LatentDiffusion, device: str = "auto", precision: str = "auto"
) -> LatentDiffusion:
    """The model on a device, in a precision, ready to be used: no gradients, convolutions
    channels-last, compiled kernels where they can be had."""
    where = device_of(device)
    dtype = dtype_of(precision, where)
    for part in (model.autoencoder, model.conditioner, model.denoiser, model.image_encoder):
        if isinstance(part, nn.Module):
            ready(part, where, dtype)
    return model


def ready(part: nn.Module, where: torch.device, dtype: torch.dtype) -> nn.Module:
    """One part, as ``prepare`` makes it."""
    part.eval().requires_grad_(False)
    # At once: each tensor is walked through once.
    part.to(where, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in part.modules():
        if isinstance(module, Quick):
            module.quick = True
    return part


def _bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
