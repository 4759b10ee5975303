"""What cannot work together is refused before the first pass; what samplers say of themselves is
true."""

from dataclasses import replace

import pytest
import torch

from making import tiny_model
from safelight import Settings, TextToImage
from safelight.config import Slot
from safelight.diffusion.compatibility import require_compatible
from safelight.diffusion.guidance.cfg_plus_plus import CFGPlusPlus
from safelight.diffusion.guidance.interval import Interval
from safelight.diffusion.guidance.none import Unguided
from safelight.diffusion.noise import BrownianNoise, SeededNoise
from safelight.diffusion.prediction import Flow, NoiseAndVariance
from safelight.diffusion.samplers.ddpm import DDPM
from safelight.diffusion.schedule import Linear
from safelight.errors import BadInput
from safelight.pipeline import steps
from safelight.types.diffusion import Estimate

SAMPLERS = Slot("diffusion.samplers.*")
FORMS = ["single:form=clean", "unipc:form=noise"]
TIMES = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.15], dtype=torch.float64)


def end(sampler, predicted):
    """Where a run ends if every estimate predicts this noise."""

    def denoise(noisy, level):
        return Estimate(torch.zeros_like(noisy), noise=torch.full_like(noisy, predicted))

    source = BrownianNoise([1]) if sampler.info.brownian else SeededNoise([1])
    *_, step = sampler(denoise, torch.ones(1, 1, 2), TIMES, Linear(), source)
    return step.noisy


@pytest.mark.parametrize("spelled", [*SAMPLERS.kinds(), *FORMS])
def test_cfg_plus_plus_goes_with_the_samplers_that_use_its_noise(spelled):
    sampler = SAMPLERS.read(spelled)
    counts = not torch.allclose(end(sampler, 0.5), end(sampler, -0.5), atol=1e-3)
    if counts:
        require_compatible(sampler, Flow(), Interval(CFGPlusPlus()))
    else:
        require_compatible(sampler, Flow(), Unguided())
        with pytest.raises(
            BadInput, match=r"needs a sampler that adds the predicted noise back, .* does not"
        ):
            require_compatible(sampler, Flow(), Interval(CFGPlusPlus()))


def test_learned_variance_needs_a_model_that_has_learned_one():
    require_compatible(DDPM("learned"), NoiseAndVariance(), Unguided())
    require_compatible(DDPM("large"), Flow(), Unguided())
    with pytest.raises(
        BadInput, match=r"needs a model that has learned a variance.*take variance=small"
    ):
        require_compatible(DDPM("learned"), Flow(), Unguided())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(sampler="ddpm:variance=learned"), "needs a model that has learned a variance"),
        (
            Settings(guidance="interval:of=cfg-plus-plus", sampler="dpmpp2m"),
            r"DPM-Solver\+\+ 2M does not",
        ),
        (
            Settings(guidance="distilled:scale=3"),
            "needs a network that takes the scalar 'guidance'",
        ),
    ],
)
def test_a_run_is_refused_before_its_first_pass(settings, message):
    model = tiny_model()
    passes = []
    model.denoiser.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(BadInput, match=message):
        next(steps(model, TextToImage("a red square"), replace(settings, steps=2)))
    assert passes == []
