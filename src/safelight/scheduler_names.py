"""The names that other programs give to a sampler with its spacing, and our names for both.

The programs are web UIs, ComfyUI, k-diffusion and diffusers.

The same table reads ``--scheduler``, the metadata of pictures and the ``scheduler_config.json`` of
diffusers. A name is compared without regard to case, spaces, dashes and underscores; ``+`` counts
as ``p``, so that "DPM++ 2M Karras" and ``dpmpp_2m_karras`` are the same name.
"""

import difflib
import re
from collections.abc import Mapping
from typing import NamedTuple

from safelight.errors import BadInput, unknown

DIFFUSERS: Mapping[str, str] = {
    "DDIMScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler:eta=1",
    "HeunDiscreteScheduler": "heun",
    "PNDMScheduler": "pndm",
    "LMSDiscreteScheduler": "lms",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp2m",
    "UniPCMultistepScheduler": "unipc",
    "DEISMultistepScheduler": "deis",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "EDMEulerScheduler": "euler",
    "EDMDPMSolverMultistepScheduler": "dpmpp2m",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "FlowMatchHeunDiscreteScheduler": "heun",
}
"""Scheduler classes of diffusers whose configuration can be read, and our samplers.

Of several classes that mean one sampler the first is written.
"""

SAMPLERS: Mapping[str, str] = {
    "Euler": "euler",
    "Euler a": "euler-ancestral",
    "Euler ancestral": "euler-ancestral",
    "Heun": "heun",
    "LMS": "lms",
    "DPM2": "dpm2",
    "DPM2 a": "dpm2-ancestral",
    "DPM2 ancestral": "dpm2-ancestral",
    "DPM++ 2S a": "dpmpp2s:eta=1",
    "DPM++ 2S ancestral": "dpmpp2s:eta=1",
    "DPM++ 2M": "dpmpp2m",
    "DPM++ 2M SDE": "dpmpp2m-sde",
    "DPM++ 2M SDE Heun": "dpmpp2m-sde:rule=heun",
    "DPM++ 3M SDE": "dpmpp3m-sde",
    "DPM++ SDE": "dpmpp-sde",
    "DPM adaptive": "adaptive",
    "DDIM": "ddim",
    "DDPM": "ddpm",
    "PLMS": "pndm",
    "DEIS": "deis",
    "UniPC": "unipc:variant=bh1",
    "UniPC bh2": "unipc",
    "LCM": "lcm",
    "TCD": "tcd",
    "Restart": "restart",
    "KDPM2DiscreteScheduler": "dpm2",
    "KDPM2AncestralDiscreteScheduler": "dpm2-ancestral",
    "DPMSolverSDEScheduler": "dpmpp-sde",
    "SASolverScheduler": "sa-solver",
    **DIFFUSERS,
}
"""Names of samplers, and ours with the options that make it the same."""

SPACINGS: Mapping[str, str] = {
    "Karras": "karras",
    "k": "karras",
    "Exponential": "exponential",
    "Polyexponential": "polyexponential",
    "Beta": "beta",
    "Normal": "linspace",
    "Simple": "uniform",
    "SGM uniform": "uniform",
    "DDIM uniform": "leading",
}
"""Names of spacings, which web UIs call the schedule type and ComfyUI the scheduler, and ours."""


class Scheduler(NamedTuple):
    """A sampler and a spacing by our names; None where the name says nothing about it."""

    sampler: str | None
    spacing: str | None


def find(name: str) -> Scheduler | None:
    """Our names for the sampler, the spacing or both that ``name`` stands for; None if unknown."""
    if spacing := _SPACINGS.get(flat := _flat(name)):
        return Scheduler(None, spacing)
    if match := _BOTH.fullmatch(flat):
        return Scheduler(_SAMPLERS[match[1]], _SPACINGS.get(match[2] or ""))
    return None


def read(name: str) -> Scheduler:
    """As ``find``; BadInput that suggests the nearest name if it is not known."""
    if scheduler := find(name):
        return scheduler
    spacings = [spacing for spacing in SPACINGS if len(spacing) > 1]
    both = [f"{sampler} {spacing}" for sampler in SAMPLERS for spacing in spacings]
    known = {_flat(written): written for written in (*both, *spacings, *SAMPLERS)}
    close = difflib.get_close_matches(_flat(name), known, n=1)
    if close:
        raise BadInput(f"unknown scheduler {name!r}; did you mean {known[close[0]]!r}?")
    raise unknown("scheduler", name, SAMPLERS)


def _flat(name: str) -> str:
    name = re.sub(r"\s\+\s", " ", name.lower()).replace("+", "p")
    return re.sub(r"[^a-z0-9]", "", name)


_SAMPLERS = {_flat(name): ours for name, ours in SAMPLERS.items()}
_SPACINGS = {_flat(name): ours for name, ours in SPACINGS.items()}
_BOTH = re.compile(f"(?:k|sample)?({'|'.join(_SAMPLERS)})(?:gpu)?({'|'.join(_SPACINGS)})?")
