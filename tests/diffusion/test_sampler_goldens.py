"""Trajectories of other implementations: see ``golden.json`` for how each was made.

Not here, each for what the other one does: ``ddpm``, ``ddpm_large``, ``lcm``, ``flow_lcm``, ``tcd``
and ``flow_euler_stochastic`` did not record their noise (``test_sampler_peers.py`` runs them);
``euler_churn`` tells the network the time before the churn; ``dpm_single`` above order 1 makes grid
times the passes inside a step; ``pndm_v`` extrapolates v instead of the noise; ``ddim_linspace``
steps by a tenth of the table though its times are a ninth apart; ``euler_dummy`` and ``heun_dummy``
have a model that is no denoiser; ``unipc_nocorr0`` is an option of its own.
"""

from dataclasses import dataclass

import pytest
import torch

from recorded import Recording
from safelight.diffusion.ideal import IdealGaussian, IdealPoints
from safelight.diffusion.noise import RecordedNoise
from safelight.diffusion.prediction import EDM, Clean, Flow, Noise, V
from safelight.diffusion.process import Process
from safelight.diffusion.samplers.aliases import DPMpp2MSDE, DPMpp2S, DPMpp3MSDE
from safelight.diffusion.samplers.dpmpp import DPMpp2M, DPMpp3M, DPMppSDE
from safelight.diffusion.samplers.euler import Euler
from safelight.diffusion.samplers.heun import DPM2, Heun
from safelight.diffusion.samplers.multistep import DEIS, LMS, PNDM
from safelight.diffusion.samplers.predictor_corrector import UniPC
from safelight.diffusion.samplers.single import Adaptive, Single
from safelight.diffusion.schedule import Cosine, Linear, LinearBeta, ScaledLinear, Table
from safelight.diffusion.spacing.even import Leading, Linspace, Uniform
from safelight.diffusion.spacing.shifted import Shifted, ShiftedByTokens, ShiftedTwice
from safelight.diffusion.spacing.sigmas import Exponential, Karras, Polyexponential
from safelight.types.diffusion import NoiseLevel
from safelight.types.networks import Condition


@pytest.fixture(scope="module")
def golden():
    recording = Recording("samplers")
    return recording.inputs, recording.outputs, recording.facts["tolerance"]


@dataclass(frozen=True)
class Exploding:
    """alpha = 1, sigma = t: variance-exploding in its own units, as a kind that no sampler was
    written for."""

    def __call__(self, t):
        return NoiseLevel(t, torch.ones_like(t), t, torch.zeros_like(t), torch.ones_like(t))

    def when(self, half_logsnr):
        return torch.exp(-half_logsnr)


def ideal(inputs, data):
    return (
        IdealPoints(inputs["points"])
        if data == "points"
        else IdealGaussian(inputs["gauss_mean"], inputs["gauss_std"])
    )


CHURN = {"s_churn": 4.0, "s_tmin": 0.05, "s_tmax": 8.0, "s_noise": 1.007}
SIGMA_SPACE = {
    "euler": Euler(),
    "euler_s_churn4.0_s_tmin0.05_s_tmax8.0_s_noise1.007": Heun("sigma", second=False, **CHURN),
    "euler_ancestral": Euler(eta=1.0),
    "euler_ancestral_eta0.6_s_noise0.9": Euler(eta=0.6, s_noise=0.9),
    "heun": Heun("sigma"),
    "heun_s_churn3.0_s_noise1.003": Heun("sigma", s_churn=3.0, s_noise=1.003),
    "dpm_2": DPM2(),
    "dpm_2_ancestral": DPM2(eta=1.0),
    "lms": LMS(),
    "lms_order2": LMS(order=2),
    "dpmpp_2s_ancestral": DPMpp2S(eta=1.0),
    "dpmpp_sde": DPMppSDE(),
    "dpmpp_2m": DPMpp2M(),
    "dpmpp_2m_sde": DPMpp2MSDE(),
    "dpmpp_2m_sde_solver_typeheun_eta0.5": DPMpp2M(eta=0.5, rule="heun"),
    "dpmpp_2m_sde_eta0.0": DPMpp2M(),
    "dpmpp_3m_sde": DPMpp3MSDE(),
}


@pytest.mark.parametrize(
    ("data", "spacing"),
    [
        ("points", "karras"),
        ("gauss", "karras"),
        ("gauss", "exponential"),
        ("gauss", "polyexponential"),
    ],
)
@pytest.mark.parametrize("case", SIGMA_SPACE)
def test_sigma_space(golden, case, data, spacing):
    """k-diffusion draws at every step where churn is an option; here nothing is drawn where nothing
    is added."""
    inputs, outputs, tolerance = golden
    name = f"kd.{case}.{data}.{spacing}"
    times = outputs[f"sigmas.{spacing}"]
    start = inputs["start_unit"] * times[0]
    draws = list(inputs.get(f"{name}.noise", torch.empty(0)))
    if "s_tmin" in case:
        draws = [draw for draw, sigma in zip(draws, times, strict=False) if 0.05 <= sigma <= 8.0]
    shown = []

    def denoise(noisy, level):
        shown.append(noisy)
        return ideal(inputs, data)(noisy, level)

    steps = list(SIGMA_SPACE[case](denoise, start, times, Exploding(), RecordedNoise(draws)))
    found = torch.stack([start, *(step.noisy for step in steps)])
    if "churn" in case:  # recorded once churned
        found = torch.stack([*(shown[::2] if "heun" in case else shown), steps[-1].noisy])
    limits = {key: tolerance["kd"][key] for key in ("atol", "rtol")}
    torch.testing.assert_close(found, outputs[f"{name}.x"], **limits)


@pytest.mark.parametrize("data", ["points", "gauss"])
@pytest.mark.parametrize(
    ("case", "sampler"),
    [
        ("dpm_adaptive", Adaptive(together=True)),
        ("dpm_adaptive_order2_eta0.5", Adaptive(2, eta=0.5, together=True)),
    ],
)
def test_adaptive(golden, case, sampler, data):
    """With one pace for the batch. k-diffusion draws also where it adds nothing, which eta = 0 does
    not."""
    inputs, outputs, _ = golden
    name = f"kd.{case}.{data}"
    times = torch.tensor([14.6, 0.03], dtype=torch.float64)
    noise = RecordedNoise(list(inputs.get(f"{name}.noise", torch.empty(0))))
    passes = []

    def denoise(noisy, level):
        passes.append(float(level.sigma.max()))
        return ideal(inputs, data)(noisy, level)

    found = list(sampler(denoise, inputs["start_unit"] * 14.6, times, Exploding(), noise))[-1].noisy
    torch.testing.assert_close(found, outputs[f"{name}.result"], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(
        torch.tensor(passes, dtype=torch.float64), outputs[f"{name}.model_sigmas"]
    )


@pytest.mark.parametrize("data", ["points", "gauss"])
@pytest.mark.parametrize(
    ("case", "eta", "orders"), [("n11", 0.0, (3, 3, 3, 2)), ("n7_eta0.4", 0.4, (3, 3, 1))]
)
def test_single_steps_of_several_orders(golden, case, eta, orders, data):
    """DPM-Solver-fast: even steps in half-log-SNR, of the orders that its passes allow."""
    inputs, outputs, _ = golden
    name = f"kd.dpm_fast_{case}.{data}"
    ends = torch.tensor([14.6, 0.03], dtype=torch.float64).log()
    times = torch.linspace(*ends.tolist(), len(orders) + 1, dtype=torch.float64).exp()
    noise = RecordedNoise(list(inputs.get(f"{name}.noise", torch.empty(0))))
    noisy = inputs["start_unit"] * 14.6
    for index, order in enumerate(orders):
        leg = times[index : index + 2]
        at_end = (
            index == len(orders) - 1
        )  # k-diffusion adds no noise that would have to be taken out beyond its end
        noisy = next(
            Single(order, eta=0.0 if at_end else eta)(
                ideal(inputs, data), noisy, leg, Exploding(), noise
            )
        ).noisy
    torch.testing.assert_close(noisy, outputs[f"{name}.result"], rtol=1e-6, atol=1e-7)


def model(process, schedule, recorded):
    """A network that answers as the exact posterior of N(0.3, 0.6²) does, in the process's own
    space.

    It looks at the recorded times: some were rounded down to whole numbers.
    """
    recorded = iter(recorded)
    gauss = IdealGaussian(
        torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    )

    def network(noisy, time, condition):
        heard = next(recorded)
        assert abs(time[0] - heard) < 1
        level = schedule((heard if schedule == Linear() else heard + 1) / 1000)
        clean = gauss(noisy, level).clean
        return process.prediction.target(clean, (noisy - level.alpha * clean) / level.sigma, level)

    return network


TABLE, LAST = ScaledLinear(), torch.tensor([0.001], dtype=torch.float64)


def heard(outputs, name):
    return torch.cat(
        [
            (outputs[f"{name}.timesteps"].unique().flip(0) + 1) / 1000,
            torch.zeros(1, dtype=torch.float64),
        ]
    )


def ratios(outputs, name):
    return TABLE.when(-outputs[f"{name}.sigmas"].unique().flip(0).log())


def leading(outputs, name):
    """diffusers ends at the first entry of the table rather than at clean."""
    return torch.cat([Leading()(10, TABLE)[:-1], LAST])


def flow(outputs, name):
    return outputs[f"{name}.sigmas"]


CASES = {
    "df.ddim": (Euler(), Noise(), leading),
    "df.ddim_eta": (Euler(eta=0.7), Noise(), leading),
    "df.dpm_multi_dpmsolver++_o2": (DPMpp2M(), Noise(), heard),
    "df.dpm_multi_dpmsolver++_o1": (Euler(), Noise(), heard),
    "df.dpm_multi_dpmsolver++_o3": (DPMpp3M(lower_last=True), Noise(), heard),
    "df.dpm_multi_sde-dpmsolver++_o2": (DPMpp2M(eta=1.0), Noise(), heard),
    "df.dpm_multi_sde-dpmsolver++_o1": (Euler(eta=1.0), Noise(), heard),
    "df.dpm_multi_heun": (DPMpp2M(rule="heun"), Noise(), heard),
    "df.dpm_multi_karras": (DPMpp2M(), Noise(), ratios),
    "df.dpm_multi_v": (DPMpp2M(), V(), lambda *_: Uniform()(10, TABLE)),
    "df.dpm_single_o1": (Euler(), Noise(), heard),
    "df.unipc_bh2_o1": (UniPC(1, lower_last=True), Noise(), heard),
    "df.unipc_bh2_o2": (UniPC(2, lower_last=True), Noise(), heard),
    "df.unipc_bh2_o3": (UniPC(3, lower_last=True), Noise(), heard),
    "df.unipc_bh1": (UniPC(2, "bh1", lower_last=True), Noise(), ratios),
    "df.unipc_eps": (UniPC(2, form="noise", lower_last=True), Noise(), ratios),
    "df.unipc_karras": (UniPC(2, lower_last=True), Noise(), ratios),
    "df.unipc_v": (UniPC(2, lower_last=True), V(), heard),
    "df.deis_o1": (DEIS(1), Noise(), ratios),
    "df.deis_o2": (DEIS(2, lower_last=True), Noise(), ratios),
    "df.deis_o3": (DEIS(3, lower_last=True), Noise(), ratios),
    "df.deis_v": (DEIS(2, lower_last=True), V(), ratios),
    "df.ddim_sample": (Euler(), Clean(), heard),
    "df.flow_euler_shift1": (Euler(), Flow(), flow),
    "df.flow_euler_shift3": (Euler(), Flow(), flow),
    "df.flow_euler_dynamic": (Euler(), Flow(), flow),
    "df.flow_euler_karras": (Euler(), Flow(), flow),
    "df.flow_euler_terminal": (Euler(), Flow(), flow),
    "df.flow_heun": (
        Heun(),
        Flow(),
        lambda outputs, name: torch.cat([flow(outputs, name)[:-1:2], torch.zeros(1)]),
    ),
    "df.dpm_multi_flow": (DPMpp2M(), Flow(), flow),
    "df.unipc_flow": (UniPC(2, lower_last=True), Flow(), flow),
}


@pytest.mark.parametrize("name", CASES)
def test_table_and_flow(golden, name):
    inputs, outputs, tolerance = golden
    sampler, prediction, times = CASES[name]
    schedule = Linear() if "flow" in name else TABLE
    process = Process(schedule, prediction)
    network = model(process, schedule, outputs[f"{name}.timesteps"])
    start = inputs["diffusers.start_unit"]
    noise = RecordedNoise(list(inputs.get(f"{name}.noise", torch.empty(0))))
    steps = sampler(
        lambda noisy, level: process.denoise(network, noisy, level, Condition()),
        start,
        times(outputs, name),
        schedule,
        noise,
    )
    found = torch.stack([start, *(step.noisy for step in steps)])
    wanted = outputs[f"{name}.x"]
    limits = {key: tolerance["df"][key] for key in ("atol", "rtol")}
    if name == "df.flow_heun":  # recorded between the two passes of a step as well
        wanted = torch.cat([wanted[::2], wanted[-1:]])
    torch.testing.assert_close(found, wanted, **limits)


SCALED = {
    "df.euler": (Euler(), Noise()),
    "df.euler_karras": (Euler(), Noise()),
    "df.euler_trailing": (Euler(), Noise()),
    "df.euler_leading": (Euler(), Noise()),
    "df.euler_v": (Euler(), V()),
    "df.euler_exp": (Euler(), Noise()),
    "df.euler_beta": (
        Euler(),
        Noise(),
    ),  # spaced by Beta in sigma, where the paper and Safelight do it in t
    "df.euler_ancestral": (Euler(eta=1.0), Noise()),
    "df.lms": (LMS(), Noise()),
    "df.heun": (Heun("sigma"), Noise()),
    "df.heun_karras": (Heun("sigma"), Noise()),
    "df.kdpm2": (DPM2(), Noise()),
}


@pytest.mark.parametrize("name", SCALED)
def test_table_in_sigma_space(golden, name):
    """These keep noisy / alpha, whose start is the sigma of the first step times noise. They end at
    clean."""
    inputs, outputs, tolerance = golden
    sampler, prediction = SCALED[name]
    # For KDPM2 the sigmas of the passes half-way are listed as well; its steps are those of LMS.
    times = ratios(outputs, "df.lms" if name == "df.kdpm2" else name)
    process = Process(TABLE, prediction)
    levels = TABLE(times)
    network = model(process, TABLE, outputs[f"{name}.timesteps"])
    start = outputs[f"{name}.x"][0] * levels.alpha[0]
    noise = RecordedNoise(list(inputs.get(f"{name}.noise", torch.empty(0))))

    def denoise(noisy, level):
        return process.denoise(network, noisy, level, Condition())

    found = torch.stack(
        [start, *(step.noisy for step in sampler(denoise, start, times, TABLE, noise))]
    )
    found = found / levels.alpha.reshape(-1, 1, 1, 1, 1).float()
    wanted = outputs[f"{name}.x"]
    if len(wanted) == 20:  # recorded between the two passes of a step as well
        wanted = torch.cat([wanted[::2], wanted[-1:]])
    torch.testing.assert_close(
        found, wanted, **{key: tolerance["df"][key] for key in ("atol", "rtol")}
    )


PLMS = {"df.pndm_plms": (PNDM(), Noise()), "df.pndm_prk": (PNDM(runge_kutta=True), Noise())}


@pytest.mark.parametrize("name", PLMS)
def test_plms(golden, name):
    """A pass is a row there, so that the first step has two, and each of Runge-Kutta four."""
    inputs, outputs, tolerance = golden
    sampler, prediction = PLMS[name]
    times = torch.cat([heard(outputs, name)[:-1], LAST])  # it ends at the first entry of the table
    rows = [0, *range(2, 12)]
    if name == "df.pndm_prk":
        times = torch.cat(
            [times[:6:2], times[6:-1]]
        )  # whose last step goes from the first entry to itself
        rows = [0, 4, 8, *range(12, 19)]
    process = Process(TABLE, prediction)
    network = model(process, TABLE, outputs[f"{name}.timesteps"])
    start = inputs["diffusers.start_unit"]

    def denoise(noisy, level):
        return process.denoise(network, noisy, level, Condition())

    found = torch.stack(
        [start, *(step.noisy for step in sampler(denoise, start, times, TABLE, RecordedNoise([])))]
    )
    limits = {key: tolerance["df"][key] for key in ("atol", "rtol")}
    torch.testing.assert_close(found, outputs[f"{name}.x"][rows], **limits)


def test_tables(golden):
    _, outputs, _ = golden
    nodes = torch.arange(1, 1001, dtype=torch.float64) / 1000
    cosine = tuple(outputs["schedule.cosine.alphas_cumprod"].double().tolist())
    for schedule, name, count in [
        (TABLE, "scaled_linear", 1000),
        (ScaledLinear(zero_terminal=True), "scaled_linear.ztsnr", 1000),
        (LinearBeta(), "linear", 1000),
        (LinearBeta(zero_terminal=True), "linear.ztsnr", 1000),
        (Cosine(), "cosine", 999),  # the table's last beta is cut at 0.999
        (Table(cosine), "cosine", 1000),
        (Table(cosine, zero_terminal=True), "cosine.ztsnr", 1000),
    ]:
        wanted = outputs[f"schedule.{name}.alphas_cumprod"].double()[:count]
        torch.testing.assert_close(schedule(nodes[:count]).alpha ** 2, wanted, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [4, 10, 50])
def test_spacings(golden, steps):
    _, outputs, _ = golden
    for spacing, name, rounding in [
        (Uniform(), "trailing.n{}.offset0", 1e-9),
        (Leading(offset=0), "leading.n{}.offset0", 1e-9),
        (Leading(), "leading.n{}.offset1", 1e-9),
        (Linspace(), "linspace.n{}.offset0", 0.5 + 1e-9),  # rounded to entries there, and not here
    ]:
        found = TABLE(spacing(steps, TABLE)[:-1]).time
        wanted = outputs["timesteps." + name.format(steps)].double()
        torch.testing.assert_close(found, wanted, rtol=0, atol=rounding)
    for shift in (1.0, 3.0, 5.0):
        found = Shifted(shift)(steps, Linear())
        torch.testing.assert_close(
            found.float(), outputs[f"flow.shift{shift}.single.n{steps}"], rtol=1e-6, atol=1e-7
        )
    found = ShiftedTwice()(steps, Linear())
    torch.testing.assert_close(
        found.float(), outputs[f"flow.shift3.twice.n{steps}"], rtol=1e-5, atol=1e-7
    )
    for tokens in (256, 1024, 4096):
        found = ShiftedByTokens(tokens)(steps, Linear())
        torch.testing.assert_close(
            found.float(), outputs[f"flow.mu.tokens{tokens}.n{steps}"], rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize(
    ("spacing", "name"),
    [(Karras, "karras"), (Exponential, "exponential"), (Polyexponential, "polyexponential")],
)
def test_even_in_sigma(golden, spacing, name):
    ends = TABLE(spacing(sigma_min=0.03, sigma_max=14.6)(10, TABLE))
    torch.testing.assert_close(
        ends.sigma / ends.alpha, golden[1][f"sigmas.{name}"], rtol=1e-9, atol=0
    )


def test_karras(golden):
    level = TABLE(Karras()(10, TABLE))
    torch.testing.assert_close(
        level.sigma / level.alpha,
        golden[1]["df.dpm_multi_karras.sigmas"],
        rtol=2e-5,
        atol=0,
        check_dtype=False,
    )


def test_edm_preconditioning(golden):
    _, outputs, _ = golden
    sigma = outputs["edm.sigma"][:, None]
    level = NoiseLevel(
        sigma, torch.ones_like(sigma), sigma, torch.zeros_like(sigma), torch.ones_like(sigma)
    )
    one, none = torch.ones_like(sigma), torch.zeros_like(sigma)
    torch.testing.assert_close(EDM().scale_input(one, level), outputs["edm.c_in"][:, None])
    torch.testing.assert_close(
        EDM().to_estimate(none, one, level).clean, outputs["edm.c_skip"][:, None]
    )
    torch.testing.assert_close(
        EDM().to_estimate(one, none, level).clean, outputs["edm.c_out"][:, None]
    )
