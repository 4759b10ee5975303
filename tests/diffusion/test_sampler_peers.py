"""Step for step beside diffusers, where no trajectory is recorded: the samplers that draw noise
anew.

Both see the posterior of N(0.3, 0.6²) and the same draws. Where the two differ by design, the test
says so.
"""

import pytest
import torch

from safelight.diffusion.ideal import IdealGaussian
from safelight.diffusion.noise import RecordedNoise
from safelight.diffusion.prediction import noise_of
from safelight.diffusion.samplers.consistency import LCM, TCD, Consistency
from safelight.diffusion.samplers.ddpm import DDPM
from safelight.diffusion.samplers.predictor_corrector import SASolver
from safelight.diffusion.schedule import Linear, ScaledLinear
from safelight.types.diffusion import Estimate

diffusers = pytest.importorskip("diffusers")

GAUSSIAN = IdealGaussian(
    torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
)
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 3, 4, 4)
DRAWS = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def peer(scheduler, steps, monkeypatch, answer, **options):
    """The states of a diffusers scheduler, with our draws."""
    draws = iter(DRAWS[1:])
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(draws))
    scheduler.set_timesteps(steps)
    noisy, states = DRAWS[0], []
    for t in scheduler.timesteps:
        noisy = scheduler.step(answer(noisy, t), t, noisy, **options).prev_sample
        states.append(noisy)
    return scheduler.timesteps.double(), states


def noise_at(noisy, t):
    level = ScaledLinear()((t.double() + 1) / 1000)
    return noise_of(GAUSSIAN(noisy, level), noisy, level)


def ours(sampler, times, schedule=None, denoise=GAUSSIAN):
    steps = sampler(
        denoise, DRAWS[0], times, schedule or ScaledLinear(), RecordedNoise(list(DRAWS[1:]))
    )
    return [step.noisy for step in steps]


def compare(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def table_times(timesteps, last=0.0):
    return torch.cat([(timesteps + 1) / 1000, torch.tensor([last], dtype=torch.float64)])


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(variance, monkeypatch):
    scheduler = diffusers.DDPMScheduler(
        **TABLE, variance_type=f"fixed_{variance}", clip_sample=False
    )
    timesteps, wanted = peer(scheduler, 10, monkeypatch, noise_at)
    compare(ours(DDPM(variance), table_times(timesteps)), wanted)


def test_ddpm_with_learned_variance(monkeypatch):
    """The variance that a network answers, from -1 at the lower bound to 1 at the upper, between
    the two of a step."""
    place = torch.linspace(-1, 1, 3 * 4 * 4, dtype=torch.float64).reshape(1, 3, 4, 4).expand(SHAPE)
    scheduler = diffusers.DDPMScheduler(**TABLE, variance_type="learned_range", clip_sample=False)
    timesteps, wanted = peer(
        scheduler, 10, monkeypatch, lambda noisy, t: torch.cat([noise_at(noisy, t), place], 1)
    )

    def denoise(noisy, level):
        return Estimate(GAUSSIAN(noisy, level).clean, variance=(place + 1) / 2)

    compare(ours(DDPM("learned"), table_times(timesteps), denoise=denoise), wanted)


def test_lcm(monkeypatch):
    """The end of diffusers is the estimate at the last step, and so is ours at clean."""
    timesteps, wanted = peer(diffusers.LCMScheduler(**TABLE), 4, monkeypatch, noise_at)
    compare(ours(LCM(), table_times(timesteps)), wanted)


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_tcd(eta, monkeypatch):
    """diffusers ends at the first entry of the table. It rounds (1 - eta) · t down to an entry, and
    here it is one."""
    timesteps, wanted = peer(diffusers.TCDScheduler(**TABLE), 4, monkeypatch, noise_at, eta=eta)
    found = ours(TCD(eta), table_times(timesteps, 0.001))
    for one, other in zip(found[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_flow_consistency(monkeypatch):
    scheduler = diffusers.FlowMatchLCMScheduler(shift=3.0)

    def answer(noisy, t):
        level = Linear()(t.double() / 1000)
        clean = GAUSSIAN(noisy, level).clean
        return (noisy - clean) / level.sigma

    _, wanted = peer(scheduler, 4, monkeypatch, answer)
    compare(ours(Consistency(), scheduler.sigmas.double(), Linear()), wanted)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # diffusers makes numpy sigmas
@pytest.mark.parametrize("order", [1, 2])
def test_sa_solver(order, monkeypatch):
    """diffusers falls to lower orders at the end below 15 steps, and ends at the first entry of the
    table."""
    scheduler = diffusers.SASolverScheduler(
        **TABLE,
        predictor_order=order,
        corrector_order=order,
        lower_order_final=False,
        tau_func=lambda t: 1.0,
    )
    timesteps, wanted = peer(scheduler, 10, monkeypatch, noise_at)
    times = table_times(timesteps, 0.001)
    compare(ours(SASolver(order, order, renew_from=0.0, renew_to=1e9), times)[:-1], wanted[:-1])
