"""diffusers' ``scheduler_config.json`` as a process and the settings that go with it, and back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from safelight.diffusion import prediction, schedule
from safelight.diffusion.process import Process
from safelight.diffusion.spacing.sigmas import Karras
from safelight.errors import BadInput
from safelight.layouts.config_values import COUNT, Number, Text, checked
from safelight.scheduler_names import DIFFUSERS
from safelight.settings import SAMPLER, SPACING, Settings
from safelight.types.diffusion import Prediction, Schedule

PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": prediction.Noise(),
    "v_prediction": prediction.V(),
    "sample": prediction.Clean(),
}
Betas = type[schedule.ScaledLinear] | type[schedule.LinearBeta]
BETAS: Mapping[str, Betas] = {"scaled_linear": schedule.ScaledLinear, "linear": schedule.LinearBeta}

FIELDS: Mapping[str, Number | Text] = {
    **dict.fromkeys(
        ("_class_name", "beta_schedule", "prediction_type", "timestep_spacing"), Text()
    ),
    **dict.fromkeys(("num_train_timesteps", "base_image_seq_len", "max_image_seq_len"), COUNT),
    **dict.fromkeys(("base_shift", "max_shift"), Number(-100, 100, whole=False)),
    **dict.fromkeys(("beta_start", "beta_end"), Number(0, 1, whole=False)),
    "shift": Number(1e-3, 1e3, whole=False),
    **dict.fromkeys(
        ("sigma_data", "sigma_max", "sigma_min", "rho"), Number(1e-6, 1e6, whole=False)
    ),
    "original_inference_steps": COUNT,
    "sigma_schedule": Text(),
    "steps_offset": Number(0, 1 << 16),
}
"""The fields that are read, and their values."""

EDMS = ("epsilon", "v_prediction")
"""What schedulers of EDM call the network's answer, and its negative."""
KARRAS = (
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
)
"""Those that can visit the times of Karras."""
PICKING = ("LCMScheduler", "TCDScheduler")
"""Those that pick of the times that a model was distilled at, whatever spacing the configuration
names."""
LEADING = ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler")
"""Those that count times from the clean end where a configuration says nothing; the others visit
both ends."""
TO_CLEAN = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
"""Those whose last step ends at the clean end of that line, where others visit it."""
ZERO_TERMINAL = (
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)
"""Those that know schedules which end in pure noise."""
NEAR = 2e-3  # how far alpha² may lie from that of a schedule, rounded to half precision


def read(config: Mapping[str, Any], where: str) -> tuple[Process, Settings]:
    """The process and the settings of a configuration; a learned variance shows in the denoiser,
    not here.

    Raises BadInput for a scheduler or a prediction that is not known.
    """
    config = checked(config, where, FIELDS)
    kind = str(config.get("_class_name"))
    if kind not in DIFFUSERS:
        raise BadInput(
            f"{where}: wanted one of {', '.join(DIFFUSERS)}, got {kind!r}; put another scheduler "
            "there."
        )
    if str(kind).startswith("EDM"):
        return _edm(config, where)
    if str(kind).startswith("FlowMatch"):
        shift = config.get("shift", 1.0)
        spacing: Any = {"kind": "shifted-twice", "shift": shift} if shift != 1 else "uniform"
        if config.get("use_dynamic_shifting"):
            ends = {"low_tokens": "base_image_seq_len", "low_mu": "base_shift"}
            ends |= {"high_tokens": "max_image_seq_len", "high_mu": "max_shift"}
            spacing = {"kind": "shifted-by-tokens"} | {
                ours: config[one] for ours, one in ends.items() if one in config
            }
        return Process(schedule.Linear(), prediction.Flow()), Settings(
            sampler=DIFFUSERS[kind], spacing=spacing
        )
    what = config.get("prediction_type", "epsilon")
    betas = config.get("beta_schedule", "linear")
    if what not in PREDICTIONS or betas not in BETAS or config.get("trained_betas") is not None:
        raise BadInput(
            f"{where}: wanted a prediction_type of {', '.join(PREDICTIONS)} and betas of "
            f"{', '.join(BETAS)}, got "
            f"{what!r} and {betas!r}; this scheduler cannot be read."
        )
    kept = {"steps": "num_train_timesteps", "beta_start": "beta_start", "beta_end": "beta_end"}
    made = {ours: config[one] for ours, one in kept.items() if one in config}
    process = Process(
        BETAS[betas](**made, zero_terminal=bool(config.get("rescale_betas_zero_snr"))),
        PREDICTIONS[what],
    )
    return process, Settings(sampler=DIFFUSERS[kind], spacing=_spacing(config))


def table(made: Schedule, steps: int = 1000) -> Tensor:
    """Alpha² at every step of a training, in fp32."""
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return made(t).alpha.square().float()


def of_table(alpha_bars: Tensor, usual: Schedule) -> Schedule | None:
    """The schedule that has this ``table``, the ``usual`` one of the family first; None if none is
    known.

    Files in half precision have it rounded, so that values need only be near.
    """
    steps, given = len(alpha_bars), alpha_bars.double()
    known: list[Schedule] = [usual]
    if isinstance(usual, schedule.ScaledLinear | schedule.LinearBeta):
        known.append(replace(usual, zero_terminal=True))
    first, last = (
        float(f"{float(beta):.3g}") for beta in (1 - given[0], 1 - given[-1] / given[-2])
    )
    if 0 < first <= last < 1:
        known += [kind(steps, first, last) for kind in BETAS.values()]
    return next((one for one in known if (table(one, steps) - given).abs().max() < NEAR), None)


def _edm(config: Mapping[str, Any], where: str) -> tuple[Process, Settings]:
    """A network of EDM: its largest noise, the deviation of its data, and the sigmas that are
    visited."""
    what, how = config.get("prediction_type", "epsilon"), config.get("sigma_schedule", "karras")
    if what not in EDMS or how not in ("karras", "exponential"):
        raise BadInput(
            f"{where}: wanted a prediction_type of {', '.join(EDMS)} and a sigma_schedule of "
            "karras or exponential, "
            f"got {what!r} and {how!r}; this scheduler cannot be read."
        )
    rho = config.get("rho", 7.0)
    made = schedule.EDM(config.get("sigma_max", 80.0), rho)
    edm = prediction.EDM(config.get("sigma_data", 0.5), negated=what == "v_prediction")
    spacing = {"kind": how, "sigma_min": config.get("sigma_min", 0.002)} | (
        {"rho": rho} if how == "karras" else {}
    )
    return Process(made, edm), Settings(sampler=DIFFUSERS[config["_class_name"]], spacing=spacing)


def _written_edm(made: schedule.EDM, edm: prediction.EDM, settings: Settings) -> dict[str, Any]:
    spacing = SPACING.write(SPACING.read(settings.spacing or "karras"))
    return {
        "_class_name": "EDMDPMSolverMultistepScheduler",
        "sigma_max": made.sigma_max,
        "sigma_min": spacing.get("sigma_min") or 0.002,
        "sigma_data": edm.deviation,
        "sigma_schedule": "exponential" if spacing["kind"] == "exponential" else "karras",
        "rho": made.rho,
        "prediction_type": EDMS[int(edm.negated)],
    }


def write(process: Process, settings: Settings) -> dict[str, Any]:
    """A configuration that diffusers reads as this process; BadInput if it has no scheduler for
    it."""
    made = process.schedule
    if isinstance(made, schedule.Linear) and isinstance(process.prediction, prediction.Flow):
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
        } | _shift(settings)
    if isinstance(made, schedule.EDM) and isinstance(process.prediction, prediction.EDM):
        return _written_edm(made, process.prediction, settings)
    betas = [name for name, kind in BETAS.items() if isinstance(made, kind)]
    noise = prediction.NoiseAndVariance
    wanted = prediction.Noise() if isinstance(process.prediction, noise) else process.prediction
    what = [name for name, one in PREDICTIONS.items() if one == wanted]
    if not betas or not what or not isinstance(made, schedule.ScaledLinear | schedule.LinearBeta):
        raise BadInput(
            f"no scheduler of diffusers has the schedule {made} with the prediction "
            f"{process.prediction}."
        )
    return {
        "_class_name": (kind := _named(settings, made.zero_terminal)),
        "beta_schedule": betas[0],
        "beta_start": made.beta_start,
        "beta_end": made.beta_end,
        "num_train_timesteps": made.steps,
        "prediction_type": what[0],
        "rescale_betas_zero_snr": made.zero_terminal,
        "clip_sample": False,
        "skip_prk_steps": True,
        **_visits(kind, settings, made.zero_terminal),
    }


def _named(settings: Settings, zero_terminal: bool) -> str:
    """The scheduler that has the sampler of the settings and visits their times; DDIM where there
    is none."""
    karras = SPACING.read(settings.spacing or "uniform") == Karras()
    sampler = SAMPLER.read(settings.sampler or "euler")
    discrete = [name for name in DIFFUSERS if not name.startswith(("FlowMatch", "EDM"))]
    able = [name for name in discrete if SAMPLER.read(DIFFUSERS[name]) == sampler]
    able = [
        name
        for name in able
        if (name in KARRAS or not karras) and (name in ZERO_TERMINAL or not zero_terminal)
    ]
    return able[0] if able else "DDIMScheduler"


def _spacing(config: Mapping[str, Any]) -> Any:
    """The times that the scheduler visits."""
    steps = config.get("num_train_timesteps", 1000)
    if config["_class_name"] in PICKING:
        return {"kind": "lcm", "original_steps": config.get("original_inference_steps", 50)}
    if config.get("use_karras_sigmas"):
        return "karras"
    how = config.get(
        "timestep_spacing", "leading" if config["_class_name"] in LEADING else "linspace"
    )
    if how == "trailing" or (how == "linspace" and config["_class_name"] in TO_CLEAN):
        return "uniform"
    if how == "linspace":
        return {"kind": "linspace", "table": steps}
    offset, first = config.get("steps_offset", 0), config.get("set_alpha_to_one") is False
    return {"kind": "leading", "table": steps, "offset": offset} | (
        {"to_first": True} if first and offset else {}
    )


def _visits(kind: str, settings: Settings, zero_terminal: bool) -> dict[str, Any]:
    """Which times a discrete scheduler visits: as the settings say, where it can."""
    spacing = SPACING.write(SPACING.read(settings.spacing or "uniform"))
    if kind in PICKING:
        return {
            "original_inference_steps": spacing.get("original_steps", 50),
            "set_alpha_to_one": True,
        }
    if spacing["kind"] == "leading" and not zero_terminal:
        first, offset = spacing["to_first"], spacing["offset"]
        return {
            "timestep_spacing": "leading",
            "steps_offset": offset,
            "set_alpha_to_one": not first,
        }
    declared: dict[str, Any] = {
        "steps_offset": 1,
        "set_alpha_to_one": True,
    }  # 1: pipelines insist on it
    if spacing["kind"] == "karras" and kind in KARRAS:
        return {
            "timestep_spacing": "linspace",
            "use_karras_sigmas": True,
            **declared,
        }  # between the ends of the table
    ends = spacing["kind"] == "linspace" and kind not in TO_CLEAN
    return {"timestep_spacing": "linspace" if ends else "trailing", **declared}


def _shift(settings: Settings) -> dict[str, Any]:
    spacing = vars(SPACING.read(settings.spacing or "uniform"))
    if "high_mu" in spacing:
        ends = {"base_image_seq_len": "low_tokens", "base_shift": "low_mu"}
        ends |= {"max_image_seq_len": "high_tokens", "max_shift": "high_mu"}
        return {"shift": 1.0, "use_dynamic_shifting": True} | {
            theirs: spacing[ours] for theirs, ours in ends.items()
        }
    return {"shift": spacing.get("shift", 1.0), "use_dynamic_shifting": False}
