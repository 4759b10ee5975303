"""Schedulers of another program as processes and settings, and back."""

import pytest
import torch

from safelight.diffusion import schedule
from safelight.diffusion.prediction import V
from safelight.errors import BadInput
from safelight.layouts import schedulers
from safelight.settings import SAMPLER, SPACING, Settings

DISCRETE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}


@pytest.mark.parametrize(
    ("said", "spacing"),
    [
        ({"_class_name": "DDIMScheduler"}, {"kind": "leading", "table": 1000, "offset": 0}),
        (
            {"_class_name": "PNDMScheduler", "steps_offset": 1, "set_alpha_to_one": False},
            {"kind": "leading", "table": 1000, "offset": 1, "to_first": True},
        ),
        ({"_class_name": "EulerDiscreteScheduler"}, {"kind": "linspace", "table": 1000}),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}, "karras"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, "uniform"),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "uniform"),
    ],
)
def test_times_are_those_that_the_scheduler_visits_by_itself(said, spacing):
    process, settings = schedulers.read(DISCRETE | said, "here")
    assert settings.spacing == spacing
    again, _ = schedulers.read(schedulers.write(process, settings), "here")
    assert again == process


@pytest.mark.parametrize("spacing", ["karras", "uniform", "linspace", "leading:offset=1"])
@pytest.mark.parametrize(
    "name", [one for one in schedulers.DIFFUSERS if not one.startswith(("FlowMatch", "EDM"))]
)
def test_a_folder_keeps_its_sampler_and_its_times(name, spacing):
    process, _ = schedulers.read(DISCRETE | {"_class_name": "DDIMScheduler"}, "here")
    settings = Settings(sampler=schedulers.DIFFUSERS[name], spacing=spacing)
    said = schedulers.write(process, settings)
    again, kept = schedulers.read(said, "here")
    assert again == process
    if spacing != "karras" or name in schedulers.KARRAS:
        assert SAMPLER.read(kept.sampler) == SAMPLER.read(settings.sampler)
        if (
            spacing != "linspace" or name not in schedulers.TO_CLEAN
        ) and name not in schedulers.PICKING:
            assert SPACING.read(kept.spacing) == SPACING.read(settings.spacing)


@pytest.mark.parametrize("name", schedulers.PICKING)
def test_a_folder_keeps_of_how_many_times_some_are_picked(name):
    process, _ = schedulers.read(DISCRETE | {"_class_name": "DDIMScheduler"}, "here")
    settings = Settings(sampler=schedulers.DIFFUSERS[name], spacing="lcm:original_steps=20")
    _, kept = schedulers.read(schedulers.write(process, settings), "here")
    assert SAMPLER.read(kept.sampler) == SAMPLER.read(settings.sampler)
    assert SPACING.read(kept.spacing) == SPACING.read(settings.spacing)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("sampler", ["dpmpp2m", "euler", "heun", "unipc", "deis"])
@pytest.mark.parametrize("spacing", ["karras", "linspace", "uniform"])
def test_the_peer_visits_the_levels_that_were_asked_for(sampler, spacing):
    diffusers = pytest.importorskip("diffusers")
    process, _ = schedulers.read(DISCRETE | {"_class_name": "DDIMScheduler"}, "here")
    said = schedulers.write(process, Settings(sampler=sampler, spacing=spacing))
    peer = getattr(diffusers, said["_class_name"]).from_config(said)
    peer.set_timesteps(7)
    if not hasattr(peer, "sigmas") or (
        sampler == "euler" and spacing != "karras"
    ):  # DDIM, which is Euler's there
        assert said["_class_name"] == "DDIMScheduler"
        return
    sigmas = torch.as_tensor(peer.sigmas, dtype=torch.float64).unique().flip(0)
    spacing = schedulers.read(said, "here")[1].spacing
    level = process.schedule(SPACING.read(spacing)(7, process.schedule, 1.0).double())
    ours = (level.sigma / level.alpha)[:7]
    assert torch.allclose(sigmas[:7], ours, rtol=0.02), (sigmas, ours)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        schedule.ScaledLinear(),
        schedule.ScaledLinear(zero_terminal=True),
        schedule.ScaledLinear(beta_start=0.0015, beta_end=0.0195),
        schedule.LinearBeta(),
    ],
)
def test_a_table_tells_its_schedule(made, half):
    table = schedulers.table(made)
    assert (
        schedulers.of_table(table.half() if half else table, schedule.ScaledLinear()) == made
        or half
    )


def test_a_table_of_no_known_schedule_tells_none():
    assert schedulers.of_table(schedulers.table(schedule.Cosine()), schedule.ScaledLinear()) is None
    assert schedulers.of_table(torch.zeros(1000), schedule.ScaledLinear()) is None
    assert schedulers.of_table(torch.full((1000,), torch.nan), schedule.ScaledLinear()) is None


def test_what_is_not_known_is_refused_by_name():
    with pytest.raises(BadInput, match=r"here: wanted one of .*, got 'OtherScheduler'"):
        schedulers.read({"_class_name": "OtherScheduler"}, "here")
    with pytest.raises(BadInput, match="wanted a prediction_type of epsilon, v_prediction, sample"):
        schedulers.read({"_class_name": "DDIMScheduler", "prediction_type": "odd"}, "here")
    process, _ = schedulers.read(
        DISCRETE | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}, "here"
    )
    assert process.prediction == V()
