"""Schedulers of another program as processes and settings, and back."""

import pytest

from safelight.checkpoints import schedulers
from safelight.diffusion.prediction import V
from safelight.errors import BadInput

DISCRETE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}


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
    ],
)
def test_times_are_those_that_the_scheduler_visits_by_itself(said, spacing):
    process, settings = schedulers.read(DISCRETE | said, "here")
    assert settings.spacing == spacing
    again, _ = schedulers.read(schedulers.write(process, settings), "here")
    assert again == process


def test_what_is_not_known_is_refused_by_name():
    with pytest.raises(BadInput, match=r"here: wanted one of .*, got 'OtherScheduler'"):
        schedulers.read({"_class_name": "OtherScheduler"}, "here")
    with pytest.raises(BadInput, match="wanted a prediction_type of epsilon, v_prediction, sample"):
        schedulers.read({"_class_name": "DDIMScheduler", "prediction_type": "odd"}, "here")
    process, _ = schedulers.read(DISCRETE | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}, "here")
    assert process.prediction == V()
