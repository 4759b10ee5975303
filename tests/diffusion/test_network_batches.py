"""With a network a sample is the same alone and in any batch, as nearly as matrix products are."""

import pytest
import torch

from safelight.config import Slot
from safelight.denoisers.dit.config import Config
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guided import guided
from safelight.diffusion.noise import BrownianNoise, SeededNoise
from safelight.diffusion.prediction import Flow
from safelight.diffusion.process import Process
from safelight.diffusion.samplers.single import Adaptive
from safelight.diffusion.schedule import Linear
from safelight.diffusion.spacing.even import Uniform
from safelight.types.networks import Condition

SAMPLERS = Slot("diffusion.samplers.*")
LABELS = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
PROCESS = Process(Linear(), Flow())


@pytest.fixture(scope="module")
def network():
    """A small transformer that says something: no weight of it is zero."""
    built = (
        Config(channels=4, width=32, depth=2, heads=2, text="none", vector_width=5).build().eval()
    )
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in built.parameters():
            weight.normal_(0, 0.2, generator=draws)
    return built


@torch.inference_mode()
def sampled(network, sampler, part):
    """The end of a guided run over the seeds of ``part``."""
    labels, seeds = LABELS[part], range(4)[part]
    noise = SeededNoise(seeds)
    start = noise((len(seeds), 4, 6, 8))
    yes, no = Condition(vector=labels), Condition(vector=0 * labels)
    waist = guided(PROCESS, {"main": network}, ClassifierFree(3.0), yes, lambda _: no)
    source = BrownianNoise(seeds) if sampler.info.brownian else noise
    *_, step = sampler(waist, start, Uniform()(5, PROCESS.schedule), PROCESS.schedule, source)
    return step.noisy


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [kind for kind in SAMPLERS.kinds() if kind != "ddim-inversion"])
def test_a_sample_is_the_same_alone_and_in_any_batch(network, kind):
    sampler = SAMPLERS.read("adaptive:relative=0.1,absolute=0.1" if kind == "adaptive" else kind)
    four = sampled(network, sampler, slice(0, 4))
    alone = torch.cat([sampled(network, sampler, slice(i, i + 1)) for i in range(4)])
    parts = torch.cat(
        [sampled(network, sampler, slice(0, 3)), sampled(network, sampler, slice(3, 4))]
    )
    assert len({round(float(one.std()), 4) for one in four}) == 4
    bound = (
        sampler.relative if isinstance(sampler, Adaptive) else 1e-5
    )  # its pace follows differences of rounding
    for other in (alone, parts):
        assert float((four - other).norm() / four.norm()) < bound
