"""Trajectories of other implementations, where they are at hand: see ``golden.json`` for how each was made."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safelight.diffusion.ideal import IdealGaussian, IdealPoints
from safelight.diffusion.noise import RecordedNoise
from safelight.diffusion.prediction import Flow, Noise, V
from safelight.diffusion.process import Process
from safelight.diffusion.samplers import DPMpp2M, Euler, Heun
from safelight.diffusion.schedule import Cosine, Linear, ScaledLinear
from safelight.diffusion.spacing import Karras, Leading, Shifted, Uniform
from safelight.types import Condition, NoiseLevel

FOLDER = Path(__file__).parents[3] / "shared" / "goldens" / "samplers"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the recorded trajectories are not here")


@pytest.fixture(scope="module")
def golden():
    tolerance = json.loads((FOLDER / "golden.json").read_text())["tolerance"]
    return load_file(FOLDER / "inputs.safetensors"), load_file(FOLDER / "outputs.safetensors"), tolerance


@dataclass(frozen=True)
class Exploding:
    """alpha = 1, sigma = t: variance-exploding in its own units, as a fourth kind that no sampler was written for."""

    def __call__(self, t):
        return NoiseLevel(t, torch.ones_like(t), t, torch.zeros_like(t), torch.ones_like(t))

    def when(self, half_logsnr):
        return torch.exp(-half_logsnr)


@pytest.mark.parametrize(
    ("data", "spacing"),
    [("points", "karras"), ("gauss", "karras"), ("gauss", "exponential"), ("gauss", "polyexponential")],
)
@pytest.mark.parametrize(
    ("case", "sampler"), [("euler", Euler()), ("euler_ancestral", Euler(eta=1.0)), ("dpmpp_2m", DPMpp2M())]
)
def test_sigma_space(golden, case, sampler, data, spacing):
    inputs, outputs, tolerance = golden
    name = f"kd.{case}.{data}.{spacing}"
    ideal = IdealPoints(inputs["points"])
    if data == "gauss":
        ideal = IdealGaussian(inputs["gauss_mean"], inputs["gauss_std"])
    times = outputs[f"sigmas.{spacing}"]
    start = inputs["start_unit"] * times[0]
    noise = RecordedNoise(list(inputs.get(f"{name}.noise", torch.empty(0))))
    found = torch.stack([start, *(step.noisy for step in sampler(ideal, start, times, Exploding(), noise))])
    limits = {key: tolerance["kd"][key] for key in ("atol", "rtol")}
    torch.testing.assert_close(found, outputs[f"{name}.x"], **limits)


def model(process, schedule, recorded):
    """A network that answers as the exact posterior of N(0.3, 0.6²) does, in the process's own space.

    It looks at the recorded times: some were rounded down to whole numbers.
    """
    recorded = iter(recorded)
    ideal = IdealGaussian(torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64))

    def network(noisy, time, condition):
        heard = next(recorded)
        assert -1e-3 < time[0] - heard < 1
        level = schedule((heard if schedule == Linear() else heard + 1) / 1000)
        clean = ideal(noisy, level).clean
        return process.prediction.target(clean, (noisy - level.alpha * clean) / level.sigma, level)

    return network


TABLE, LAST = ScaledLinear(), torch.tensor([0.001], dtype=torch.float64)


def heard(outputs, name):
    return torch.cat([(outputs[f"{name}.timesteps"] + 1) / 1000, torch.zeros(1, dtype=torch.float64)])


CASES = {
    # These end at the first entry of the table rather than at clean.
    "df.ddim": (Euler(), Noise(), lambda _: torch.cat([Leading()(10, TABLE)[:-1], LAST])),
    "df.ddim_eta": (Euler(eta=0.7), Noise(), lambda _: torch.cat([Leading()(10, TABLE)[:-1], LAST])),
    "df.dpm_multi_dpmsolver++_o2": (DPMpp2M(), Noise(), lambda outputs: heard(outputs, "df.dpm_multi_dpmsolver++_o2")),
    "df.dpm_multi_dpmsolver++_o1": (Euler(), Noise(), lambda outputs: heard(outputs, "df.dpm_multi_dpmsolver++_o1")),
    "df.dpm_multi_v": (DPMpp2M(), V(), lambda _: Uniform()(10, TABLE)),
    "df.flow_euler_shift1": (Euler(), Flow(), lambda outputs: outputs["df.flow_euler_shift1.sigmas"]),
    "df.flow_euler_shift3": (Euler(), Flow(), lambda outputs: outputs["df.flow_euler_shift3.sigmas"]),
    "df.flow_heun": (
        Heun(),
        Flow(),
        lambda outputs: torch.cat([outputs["df.flow_heun.sigmas"][0:-1:2], torch.zeros(1)]),
    ),
    "df.dpm_multi_flow": (DPMpp2M(), Flow(), lambda outputs: outputs["df.dpm_multi_flow.sigmas"]),
}


@pytest.mark.parametrize("name", CASES)
def test_table_and_flow(golden, name):
    inputs, outputs, tolerance = golden
    sampler, prediction, times = CASES[name]
    schedule = Linear() if prediction == Flow() else TABLE
    process = Process(schedule, prediction)
    network = model(process, schedule, outputs[f"{name}.timesteps"])
    start = inputs["diffusers.start_unit"]
    noise = RecordedNoise(list(inputs.get(f"{name}.noise", torch.empty(0))))
    steps = sampler(
        lambda noisy, level: process.denoise(network, noisy, level, Condition()), start, times(outputs), schedule, noise
    )
    found = torch.stack([start, *(step.noisy for step in steps)])
    wanted = outputs[f"{name}.x"]
    limits = {key: tolerance["df"][key] for key in ("atol", "rtol")}
    if name == "df.flow_heun":  # recorded between the two passes of a step as well
        wanted = torch.cat([wanted[::2], wanted[-1:]])
    torch.testing.assert_close(found, wanted, **limits)


def test_tables(golden):
    _, outputs, _ = golden
    nodes = torch.arange(1, 1001, dtype=torch.float64) / 1000
    for schedule, name, count in [(TABLE, "scaled_linear", 1000), (Cosine(), "cosine", 999)]:
        wanted = outputs[f"schedule.{name}.alphas_cumprod"].double()[:count]
        torch.testing.assert_close(schedule(nodes[:count]).alpha ** 2, wanted, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [4, 10, 50])
def test_spacings(golden, steps):
    _, outputs, _ = golden
    for spacing, name in [
        (Uniform(), "trailing.n{}.offset0"),
        (Leading(offset=0), "leading.n{}.offset0"),
        (Leading(), "leading.n{}.offset1"),
    ]:
        found = TABLE(spacing(steps, TABLE)[:-1]).time
        wanted = outputs["timesteps." + name.format(steps)].double()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    for shift in (1.0, 3.0, 5.0):
        found = Shifted(shift)(steps, Linear())
        torch.testing.assert_close(found.float(), outputs[f"flow.shift{shift}.single.n{steps}"], rtol=1e-6, atol=1e-7)


def test_karras(golden):
    level = TABLE(Karras()(10, TABLE))
    torch.testing.assert_close(
        level.sigma / level.alpha, golden[1]["df.dpm_multi_karras.sigmas"], rtol=2e-5, atol=0, check_dtype=False
    )
