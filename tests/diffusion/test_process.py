"""Targets are read back to what they were made of, and the loss asks the network what sampling asks
it."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from safelight.diffusion.ideal import IdealGaussian
from safelight.diffusion.prediction import EDM, Clean, Flow, Noise, NoiseAndVariance, V, noise_of
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import EDM as Exploding
from safelight.diffusion.schedule import Cosine, Linear, LinearBeta, ScaledLinear, Sigmoid
from safelight.errors import BadInput
from safelight.types.diffusion import Estimate
from safelight.types.networks import Condition

SIGNAL = [ScaledLinear(), LinearBeta(), Exploding()]  # they end with some signal left
SCHEDULES = [Linear(), Cosine(), Sigmoid(), ScaledLinear(zero_terminal=True), *SIGNAL]
PREDICTIONS = [Noise(), Clean(), V(), Flow(), EDM(), EDM(deviation=1.3)]
CLEAN, NOISE = torch.randn(
    2, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
# A noise prediction cannot be read where there is no signal, as at the end of the others.
PAIRS = [(s, p) for s in SCHEDULES for p in PREDICTIONS if s in SIGNAL or not p.needs_signal]
T = torch.tensor([0.1305, 0.4005, 0.9805], dtype=torch.float64)


def noisy_at(schedule, t):
    level = schedule(t.reshape(-1, 1, 1, 1))
    return level, level.alpha * CLEAN + level.sigma * NOISE


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_target_is_read_back(schedule, prediction):
    level, noisy = noisy_at(schedule, T)
    estimate = prediction.to_estimate(prediction.target(CLEAN, NOISE, level), noisy, level)
    torch.testing.assert_close(estimate.clean, CLEAN, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(noise_of(estimate, noisy, level), NOISE, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_flow_target_is_the_velocity_of_the_path(schedule):
    level, _ = noisy_at(schedule, T)
    velocity = (noisy_at(schedule, T + 1e-5)[1] - noisy_at(schedule, T - 1e-5)[1]) / 2e-5
    torch.testing.assert_close(Flow().target(CLEAN, NOISE, level), velocity, rtol=1e-6, atol=1e-6)


def test_hybrid_loss_is_its_closed_form():
    """Against torch's divergence of two normal distributions, in bits; it teaches the variance and
    not the mean."""
    process = Process(LinearBeta(), NoiseAndVariance())
    level, noisy = noisy_at(process.schedule, T)
    answer = torch.cat(
        [NOISE + 0.1, torch.linspace(-1, 1, NOISE.numel()).reshape(NOISE.shape)], 1
    ).requires_grad_()
    loss = process.loss(lambda *_: answer, CLEAN, NOISE, T, Condition())
    after = process.schedule((T - 0.001).reshape(-1, 1, 1, 1))
    beta = 1 - (level.alpha / after.alpha) ** 2
    lower = beta * after.sigma**2 / level.sigma**2
    place = (answer[:, 2:] + 1) / 2
    learned = torch.exp(place * beta.log() + (1 - place) * lower.log())

    def mean(clean):
        kept = (1 - beta).sqrt() * after.sigma**2 / level.sigma**2
        return after.alpha * beta / level.sigma**2 * clean + kept * noisy

    guess = (noisy - level.sigma * answer[:, :2]) / level.alpha
    true, made = Normal(mean(CLEAN), lower.sqrt()), Normal(mean(guess), learned.sqrt())
    bits = kl_divergence(true, made).flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(loss, 0.01 + 0.001 * bits)
    (gradient,) = torch.autograd.grad(loss.sum(), answer)
    torch.testing.assert_close(gradient[:, :2], torch.full_like(NOISE, 0.2 / NOISE[0].numel()))
    assert gradient[:, 2:].abs().min() > 0


def test_hybrid_loss_is_finite_at_the_clean_end():
    process = Process(LinearBeta(), NoiseAndVariance())
    answer = torch.zeros(3, 4, 4, 5, dtype=torch.float64)
    t = torch.tensor([1e-6, 0.001, 1.0], dtype=torch.float64)
    assert process.loss(lambda *_: answer, CLEAN, NOISE, t, Condition()).isfinite().all()


def test_an_estimate_may_bring_its_own_noise():
    assert noise_of(Estimate(CLEAN, noise=NOISE), CLEAN, Linear()(T)) is NOISE


@pytest.mark.parametrize(("schedule", "prediction"), PAIRS, ids=repr)
def test_loss_and_denoise_agree(schedule, prediction):
    """A network that is right has no loss and denoises exactly; one that is off by 2 everywhere has
    a loss of 4."""
    process = Process(schedule, prediction)
    level, noisy = noisy_at(schedule, T)
    heard = []

    def network(shown, time, condition):
        heard.append((shown, time))
        return prediction.target(CLEAN, NOISE, level)

    def off(shown, time, condition):
        return prediction.target(CLEAN, NOISE, level) + 2

    assert torch.equal(
        process.loss(network, CLEAN, NOISE, T, Condition()), torch.zeros(3, dtype=torch.float64)
    )
    torch.testing.assert_close(
        process.denoise(network, noisy, level, Condition()).clean, CLEAN, rtol=1e-9, atol=1e-11
    )
    torch.testing.assert_close(
        process.loss(off, CLEAN, NOISE, T, Condition()), torch.full((3,), 4.0, dtype=torch.float64)
    )
    (shown, time), (shown_again, time_again) = heard
    assert torch.equal(shown, shown_again)
    assert torch.equal(time, time_again)
    assert torch.equal(time, schedule(T).time)


def test_the_ideal_gaussian_minimises_the_loss():
    """Scaling the posterior mean either way costs: the oracle is the best network, not just a good
    one."""
    ideal = IdealGaussian(torch.tensor(0.3), torch.tensor(0.6))
    process = Process(Linear(), Clean())
    generator = torch.Generator().manual_seed(0)
    clean = 0.3 + 0.6 * torch.randn(4000, 1, generator=generator)
    noise = torch.randn(4000, 1, generator=generator)
    t = torch.rand(4000, generator=generator)

    def loss(scale):
        def network(noisy, time, condition):
            return scale * ideal(noisy, Linear()(time[:, None] / 1000)).clean

        return process.loss(network, clean, noise, t, Condition()).mean()

    assert loss(1.0) < min(loss(0.8), loss(1.2)) - 0.003


def test_one_level_is_heard_by_every_sample_in_full_precision():
    def network(noisy, time, condition):
        assert (time.dtype, time.shape) == (torch.float32, (3,))
        torch.testing.assert_close(time, torch.full((3,), 301.0))
        return noisy

    level = Linear()(torch.tensor(0.301, dtype=torch.float64))
    estimate = Process(Linear(), Flow()).denoise(network, CLEAN.bfloat16(), level, Condition())
    assert estimate.clean.dtype == torch.bfloat16


def test_noise_cannot_be_predicted_where_there_is_no_signal():
    for schedule in (Linear(), Cosine()):
        with pytest.raises(
            BadInput, match=r"pure noise .* got Noise\(\) with .*: predict v or flow"
        ):
            Process(schedule, Noise())
