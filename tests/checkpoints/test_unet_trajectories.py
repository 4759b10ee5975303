"""Ten recorded steps of U-Nets by our processes, samplers and guidance, within a thousandth."""

import pytest
import torch
from tests.recorded_unets import of_folder, of_recording, tokens

from recorded import error
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guided import guided
from safelight.diffusion.noise import RecordedNoise
from safelight.diffusion.prediction import Noise, V
from safelight.diffusion.process import Process
from safelight.diffusion.samplers.aliases import DDIM
from safelight.diffusion.samplers.dpmpp import DPMpp2M
from safelight.diffusion.samplers.euler import Euler
from safelight.diffusion.samplers.multistep import PNDM
from safelight.diffusion.schedule import ScaledLinear
from safelight.nn.embeddings import sinusoidal
from safelight.types.networks import Condition

TENS = (
    torch.tensor([*range(902, 0, -100), 1], dtype=torch.float64) / 1000
)  # 901, 801, … 1 of the table, and its first


def walked(network, process, sampler, times, start, told, scale, first_order=0):
    """The latents at the start and after each step.

    ``told``: the condition and the null condition. The last ``first_order`` steps are DDIM's.
    """
    yes, no = (network.prepare(one) for one in told)
    denoise = guided(process, {"main": network}, ClassifierFree(scale), yes, lambda only: no)
    many, seen = len(times) - first_order, [start]
    for one, leg in ((sampler, times[:many]), (DDIM(), times[many - 1 :])):
        seen += [
            step.noisy for step in one(denoise, seen[-1], leg, process.schedule, RecordedNoise([]))
        ]
    return torch.stack(seen)


@pytest.mark.parametrize(
    ("name", "sampler", "times"),
    [
        ("ddim", DDIM(), TENS),
        ("plms", PNDM(), TENS),
        ("dpmpp2m", DPMpp2M(), torch.linspace(1, 0.001, 11).double()),
    ],
)
@torch.no_grad()
def test_stable_diffusion_1(name, sampler, times):
    network, recording = of_recording("sd1")
    told = [Condition(tokens(recording.outputs[f"text.{one}"])) for one in ("cond", "uncond")]
    start = recording.inputs["xT"]
    first_order = int(name == "dpmpp2m")  # its last step, in the original
    got = walked(
        network, Process(ScaledLinear(), Noise()), sampler, times, start, told, 7.5, first_order
    )
    assert error(got, recording.outputs[f"{name}.latents"]) < 1e-3


@pytest.mark.parametrize("name", ["sd2-v", "sd1-inpaint", "sd-x4-upscaler"])
@torch.no_grad()
def test_ddim_with_v_with_a_mask_and_with_a_small_picture(name):
    network, recording = of_recording(name)
    inputs, outputs = recording.inputs, recording.outputs
    words = [outputs["text.cond"], outputs["text.uncond"]] if name == "sd2-v" else []
    words = words or [inputs["context"], inputs["uncond_context"]]
    channels = {
        "sd1-inpaint": lambda: torch.cat([inputs["mask"], inputs["masked_image_latent"]], dim=1),
        "sd-x4-upscaler": lambda: outputs["low_res_noised"],
    }.get(name, lambda: None)()
    scalars = {"noise_level": inputs["noise_level"]} if name == "sd-x4-upscaler" else {}
    told = [Condition(tokens(one), channels=channels, scalars=scalars) for one in words]
    schedule = (
        ScaledLinear(beta_start=1e-4, beta_end=0.02) if name == "sd-x4-upscaler" else ScaledLinear()
    )
    process = Process(schedule, Noise() if name == "sd1-inpaint" else V())
    scale = 7.5 if name == "sd1-inpaint" else 9.0
    got = walked(network, process, DDIM(), TENS, inputs["noise"], told, scale)
    assert error(got, outputs["ddim.latents"]) < 1e-3


@torch.no_grad()
def test_sdxl_in_the_space_of_sigmas():
    network, recording = of_recording("sdxl")
    outputs, process = recording.outputs, Process(ScaledLinear(), Noise())
    told = [
        Condition(tokens(outputs[f"{which}crossattn"]), vector=outputs[f"{which}vector"])
        for which in ("", "uncond.")
    ]
    sigmas = outputs["euler.sigmas"].double()
    times = torch.cat([process.schedule.when(-sigmas.log()), torch.zeros(1, dtype=torch.float64)])
    got = walked(network, process, Euler(), times, recording.inputs["noise"], told, 5.0)
    alpha = process.schedule(times).alpha.float().reshape(-1, 1, 1, 1, 1)
    assert error(got / alpha, outputs["euler.latents"]) < 1e-3


@torch.no_grad()
def test_a_folder_of_sdxl():
    network, recording = of_folder("sdxl")
    inputs, outputs, process = recording.inputs, recording.outputs, Process(ScaledLinear(), Noise())
    sizes = torch.tensor(
        [40.0, 48, 0, 4, 32, 48]
    )  # that of the picture 8 higher, its corner, the picture's
    sizes = sinusoidal(sizes, 8).reshape(1, -1).expand(2, -1)
    told = [
        Condition(
            tokens(outputs[f"sdxl.{which}prompt_embeds"]),
            vector=torch.cat([outputs[f"sdxl.{which}pooled"], sizes], dim=1),
        )
        for which in ("", "negative_")
    ]
    sigmas = outputs["sdxl.sigmas"].double()
    times = torch.cat(
        [process.schedule.when(-sigmas[:-1].log()), torch.zeros(1, dtype=torch.float64)]
    )
    alpha = process.schedule(times).alpha.float().reshape(-1, 1, 1, 1, 1)
    start = inputs["sdxl.latents"] * sigmas[0].square().add(1).sqrt().float() * alpha[0]
    got = walked(network, process, Euler(), times, start, told, 5.0)
    assert error((got / alpha)[1:], outputs["sdxl.latents"]) < 1e-3
