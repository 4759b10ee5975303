"""Derivatives of Stable Diffusion XL, and models that only look like a family: recognised by
training metadata, by a scheduler, or by a hint."""

import pytest
import torch
import zoo
from safetensors.torch import load_file

from recorded import Recording, difference, error
from safelight import checkpoints
from safelight.autoencoders.kl import config as kl_config
from safelight.denoisers.unet.config import Config, Level
from safelight.diffusion import prediction, schedule
from safelight.diffusion.noise import RecordedNoise
from safelight.diffusion.process import Process
from safelight.diffusion.spacing.even import LCM
from safelight.errors import BadInput
from safelight.layouts import schedulers
from safelight.layouts.families import families
from safelight.settings import SAMPLER, SPACING
from safelight.types.networks import Condition

XL = Config(levels=(Level(32, 0, 2), Level(64, 2, 4)), middle=2, text_width=24, vector_width=68)
PICTURES = kl_config.Config(width=32, multipliers=(1, 1), blocks=1)
MEAN, STD = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
EMPTY = torch.empty(0)
MARKED = {
    "sdxl": ({}, Process(schedule.ScaledLinear(), prediction.Noise())),
    "sdxl-v": ({"v_pred": EMPTY}, Process(schedule.ScaledLinear(), prediction.V())),
    "sdxl-v-zero": (
        {"v_pred": EMPTY, "ztsnr": EMPTY},
        Process(schedule.ScaledLinear(zero_terminal=True), prediction.V()),
    ),
    "cosxl": (
        {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)},
        Process(schedule.EDM(120.0), prediction.EDM(1.0, negated=True)),
    ),
    "playground-v25": (
        {
            "edm_mean": torch.tensor(MEAN).reshape(1, 4, 1, 1),
            "edm_std": torch.tensor(STD).reshape(1, 4, 1, 1),
        },
        Process(schedule.EDM(80.0), prediction.EDM(0.5)),
    ),
}


@pytest.mark.parametrize("name", MARKED)
def test_a_marked_file_is_known_and_comes_back_also_by_way_of_a_folder(name, tmp_path):
    marked, process = MARKED[name]
    path = zoo.written(
        tmp_path / "it.safetensors", zoo.network(XL), zoo.first_stage(PICTURES), marked
    )
    model = checkpoints.read(path)
    assert (model.card.origin["family"], model.process) == (name, process)
    checkpoints.save(model, tmp_path / "folder", "diffusers")
    again = checkpoints.read(tmp_path / "folder")
    assert again.process == process
    checkpoints.save(again, tmp_path / "again.safetensors", "single-file")
    first, second = load_file(path), load_file(tmp_path / "again.safetensors")
    assert second.keys() == first.keys()
    assert all(torch.equal(second[one], first[one]) for one in first)
    if name == "playground-v25":
        for one in (model, again):
            assert one.autoencoder.scale.mean.tolist() == pytest.approx(MEAN)
            assert one.autoencoder.scale.deviation.tolist() == pytest.approx(
                [2 * value for value in STD]
            )


def test_latents_of_other_channels_are_refused(tmp_path):
    marked = {"edm_mean": torch.ones(1, 3, 1, 1), "edm_std": torch.ones(1, 3, 1, 1)}
    path = zoo.written(
        tmp_path / "it.safetensors", zoo.network(XL), zoo.first_stage(PICTURES), marked
    )
    with pytest.raises(BadInput, match="for each of 4 latent channels"):
        checkpoints.read(path)


def test_the_largest_noise_is_that_of_the_file(tmp_path):
    path = zoo.written(
        tmp_path / "it.safetensors", zoo.network(XL), {"edm_vpred.sigma_max": torch.tensor(14.6)}
    )
    assert checkpoints.read(path).process.schedule.sigma_max == pytest.approx(14.6)


EDMS = [
    (
        "EDMDPMSolverMultistepScheduler",
        {"sigma_data": 0.5, "sigma_max": 80.0, "final_sigmas_type": "zero"},
    ),
    (
        "EDMEulerScheduler",
        {"sigma_data": 1.0, "sigma_max": 120.0, "prediction_type": "v_prediction"},
    ),
    ("EDMEulerScheduler", {"sigma_data": 1.0, "sigma_max": 120.0, "sigma_schedule": "exponential"}),
]


@pytest.mark.parametrize(("kind", "said"), EDMS)
def test_the_steps_of_edm_equal_those_of_diffusers(kind, said, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setattr(
        Recording, "latest", "playground-v25" if said["sigma_data"] == 0.5 else "cosxl"
    )
    torch.manual_seed(0)
    theirs = getattr(diffusers, kind)(**said)
    theirs.set_timesteps(8)
    start = torch.randn(2, 4, 6, 6)

    def network(shown, time, condition=None):
        return torch.tanh(shown) * torch.cos(time).reshape(-1, 1, 1, 1) + 0.2 * shown.roll(1, -1)

    want = start * theirs.init_noise_sigma
    for time in theirs.timesteps:
        want = theirs.step(
            network(theirs.scale_model_input(want, time), time), time, want
        ).prev_sample
    process, settings = schedulers.read({"_class_name": kind, **said}, "here")
    again, more = schedulers.read(schedulers.write(process, settings), "here")
    assert (again, more.spacing) == (process, settings.spacing)
    times, sampler = (
        SPACING.read(settings.spacing)(8, process.schedule),
        SAMPLER.read(settings.sampler),
    )
    noisy = start * (1 + process.schedule(times[0]).sigma.float() ** 2).sqrt()

    def denoise(latents, level):
        return process.denoise(network, latents, level, Condition())

    *_, last = sampler(denoise, noisy, times, process.schedule, RecordedNoise([]))
    assert error(last.noisy, want) < 1e-4


def test_the_answer_of_edm_negated_at_a_deviation_of_one_is_v():
    level = schedule.EDM(120.0)(torch.tensor([0.3, 0.6]).reshape(2, 1, 1, 1))
    clean, noise = torch.randn(2, 2, 4, 3, 3).unbind()
    small = (1 + level.sigma**2).rsqrt()
    v = small * noise - level.sigma * small * clean
    asked = prediction.EDM(1.0, negated=True)
    assert difference(asked.target(clean, noise, level), v) < 1e-5
    assert difference(asked.to_estimate(v, clean + level.sigma * noise, level).clean, clean) < 1e-4


def test_a_scheduler_of_edm_that_is_not_known_is_refused():
    with pytest.raises(
        BadInput, match=r"wanted a prediction_type of epsilon, v_prediction .* got 'sample'"
    ):
        schedulers.read({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "here")


@pytest.mark.parametrize("kind", ["LCMScheduler", "TCDScheduler"])
def test_few_steps_visit_the_times_that_were_distilled(kind):
    diffusers = pytest.importorskip("diffusers")
    theirs = getattr(diffusers, kind)(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    said = {"_class_name": kind, "beta_schedule": "scaled_linear"}
    _, settings = schedulers.read(said, "here")
    assert settings.spacing == {"kind": "lcm", "original_steps": 50}
    for steps in (1, 2, 4, 7, 8, 12, 50):
        theirs.set_timesteps(steps)
        times = LCM()(steps, schedule.ScaledLinear())
        assert torch.equal((1000 * times[:-1]).round().long() - 1, theirs.timesteps.long())
        assert times[-1] == 0
    with pytest.raises(BadInput, match="find its steps among 25 times, got 26"):
        LCM()(26, schedule.ScaledLinear(), 0.5)


def test_a_network_that_hears_its_guidance_is_of_a_family_that_tells_it(tmp_path):
    config = Config(
        levels=(Level(32, 1, 2), Level(64, 0, 2)), text_width=24, guidance=16, linear=False
    )
    path = zoo.written(tmp_path / "lcm.safetensors", zoo.network(config))
    assert "model.diffusion_model.time_embed.cond_proj.weight" in load_file(path)
    card = checkpoints.read(path, {"heads": 2}).card
    assert (card.origin["family"], card.settings.guidance) == ("sd1-lcm", "distilled:scale=8.5")
    assert (card.settings.steps, card.settings.sampler, card.settings.spacing) == (
        4,
        "lcm",
        "lcm",
    )


def test_what_only_a_hint_can_tell_apart_needs_the_hint(tmp_path):
    path = zoo.written(tmp_path / "turbo.safetensors", zoo.network(XL))
    usual, turbo = checkpoints.read(path), checkpoints.read(path, {"family": "sdxl-turbo"})
    assert (usual.card.origin["family"], turbo.card.origin["family"]) == ("sdxl", "sdxl-turbo")
    assert (turbo.card.settings.steps, turbo.card.settings.guidance) == (1, "none")
    assert families()["sd-turbo"].process().prediction == prediction.Noise()
    assert not families()["sd-turbo"].unsure
