"""What files state besides their weights: training schedule, latent scale, prediction."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recorded import Recording
from safelight import checkpoints
from safelight.autoencoders.kl import config as kl_config
from safelight.denoisers.unet import config as unet_config
from safelight.diffusion.prediction import Flow, Noise, V
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Cosine, Linear, LinearBeta, ScaledLinear
from safelight.errors import BadInput
from safelight.inspection import inspect
from safelight.layouts.families import families
from safelight.model import LatentDiffusion

LEVELS = (unet_config.Level(32, 1, 2), unet_config.Level(32, 0, 2))


def model(process, **options):
    parts = {
        "denoiser": unet_config.Config(
            **{"levels": LEVELS, "blocks": 1, "text_width": 8, **options}
        ).build()
    }
    parts["autoencoder"] = kl_config.Config(
        width=32, multipliers=(1, 1), blocks=1, latent_channels=4
    ).build()
    made = LatentDiffusion(**parts, process=process)
    made.autoencoder.scale.deviation.fill_(1 / (1.0 if options.get("text_width") == 0 else 0.18215))
    return made


@pytest.mark.parametrize(
    "process",
    [
        Process(ScaledLinear(), Noise()),
        Process(ScaledLinear(), V()),
        Process(ScaledLinear(zero_terminal=True), V()),
        Process(ScaledLinear(beta_start=0.0015, beta_end=0.0195), Noise()),
        Process(LinearBeta(), Noise()),
    ],
)
@pytest.mark.parametrize("to", ["single-file", "diffusers"])
def test_what_a_network_was_taught_survives_either_layout(tmp_path, process, to):
    path = tmp_path / ("a.safetensors" if to == "single-file" else "a")
    checkpoints.save(model(process, linear=False), path, to)
    again = checkpoints.read(path, {"heads": 2})
    assert again.process == process
    assert "assumed" not in again.card.origin


def test_metadata_says_what_stable_diffusion_2_predicts(tmp_path):
    for process, said in (
        (Process(ScaledLinear(), Noise()), "epsilon"),
        (Process(ScaledLinear(), V()), "v"),
    ):
        checkpoints.save(model(process), tmp_path / "a.safetensors", "single-file")
        with safe_open(tmp_path / "a.safetensors", "pt") as file:
            assert file.metadata()["modelspec.prediction_type"] == said
        again = checkpoints.read(tmp_path / "a.safetensors", {"head_width": 16})
        assert again.process == process
        assert "assumed" not in again.card.origin
    told = checkpoints.read(tmp_path / "a.safetensors", {"head_width": 16, "prediction": "noise"})
    assert told.process.prediction == Noise()


def test_what_no_single_file_can_tell_is_refused(tmp_path):
    for process, message in (
        (
            Process(Linear(), Flow()),
            "of Stable Diffusion 1 cannot state the prediction flow; write a folder",
        ),
        (Process(Cosine(), V()), "cannot state the schedule Cosine"),
    ):
        with pytest.raises(BadInput, match=message):
            checkpoints.save(
                model(process, linear=False), tmp_path / "a.safetensors", "single-file"
            )
    assert not [*tmp_path.iterdir()]


def test_latents_of_a_measured_scale_come_back(tmp_path):
    made = model(families()["ldm"].process(), text_width=0)
    for scale in (1.0, 0.75):
        made.autoencoder.scale.deviation.fill_(1 / scale)
        checkpoints.save(made, tmp_path / "a.safetensors", "single-file")
        assert ("scale_factor" in load_file(tmp_path / "a.safetensors")) == (scale != 1)
        again = checkpoints.read(tmp_path / "a.safetensors", {"heads": 2})
        assert float(again.autoencoder.scale.deviation[0]) == pytest.approx(1 / scale)


def test_a_table_of_no_known_schedule_is_reported(tmp_path):
    checkpoints.save(
        model(families()["sd1"].process(), linear=False), tmp_path / "a.safetensors", "single-file"
    )
    state = load_file(tmp_path / "a.safetensors")
    save_file({**state, "alphas_cumprod": torch.linspace(1, 0.1, 50)}, tmp_path / "a.safetensors")
    again = checkpoints.read(tmp_path / "a.safetensors", {"heads": 2})
    assert again.process == families()["sd1"].process()
    assert again.card.origin["assumed"] == {"schedule": "scaled-linear"}


def test_the_upscaler_has_a_schedule_of_its_own():
    """Its recorded file tells it, and so does its published folder."""
    read = checkpoints.read(Recording("sd-x4-upscaler").file("model.safetensors"))
    assert read.process.schedule == families()["sd-x4-upscaler"].process().schedule
    assert read.process.schedule == ScaledLinear(beta_start=0.0001, beta_end=0.02)
    assert "schedule" not in read.card.origin.get("assumed", {})


def test_a_folder_names_what_its_pipeline_wants(tmp_path):
    made = model(families()["sd-x4-upscaler"].process(), classes=1000, extra_channels=3)
    made.autoencoder.scale.deviation.fill_(1 / 0.08333)
    checkpoints.save(made, tmp_path / "a", "diffusers")
    index = json.loads((tmp_path / "a" / "model_index.json").read_text())
    assert index["_diffusers_version"]
    assert index["low_res_scheduler"] == ["diffusers", "DDPMScheduler"]
    diffusers = pytest.importorskip("diffusers")
    low = diffusers.DDPMScheduler.from_pretrained(tmp_path / "a" / "low_res_scheduler")
    assert float(low.betas[-1]) == pytest.approx(0.02)


def test_a_file_that_holds_running_means_says_so(tmp_path):
    checkpoints.save(
        model(families()["sd1"].process(), linear=False), tmp_path / "a.safetensors", "single-file"
    )
    state = load_file(tmp_path / "a.safetensors")
    prefix = "model.diffusion_model."
    means = {
        f"model_ema.diffusion_model{name.removeprefix(prefix).replace('.', '')}": one.clone()
        for name, one in state.items()
        if name.startswith(prefix)
    }
    save_file(state | means, tmp_path / "a.safetensors")
    assumed = [
        inspect(str(tmp_path / "a.safetensors"), {"heads": 2, **more})["card"]["origin"].get(
            "assumed"
        )
        for more in ({}, {"ema": "no"}, {"ema": "yes"})
    ]
    assert assumed == [{"ema": "no"}, None, None]


def test_a_family_of_another_network_is_refused(tmp_path):
    checkpoints.save(
        model(families()["sd1"].process(), linear=False), tmp_path / "a.safetensors", "single-file"
    )
    with pytest.raises(
        BadInput, match=r"hint family: .* holds a unet, that of FLUX.1 dev is a flux; leave"
    ):
        checkpoints.read(tmp_path / "a.safetensors", {"heads": 2, "family": "flux-dev"})


def test_plain_fp8_is_read_as_the_numbers_it_holds(tmp_path):
    checkpoints.save(
        model(families()["sd1"].process(), linear=False), tmp_path / "a.safetensors", "single-file"
    )
    small = {
        name: one.to(torch.float8_e4m3fn)
        for name, one in load_file(tmp_path / "a.safetensors").items()
    }
    save_file(small, tmp_path / "a.safetensors")
    loaded = checkpoints.load(tmp_path / "a.safetensors", "cpu", "fp32", {"heads": 2})
    want = small["model.diffusion_model.out.2.weight"].float()
    assert any(
        one.shape == want.shape and torch.equal(one, want) for one in loaded.denoiser.parameters()
    )
    assert (
        inspect(str(tmp_path / "a.safetensors"), {"heads": 2})["parts"]["denoiser"]["precision"]
        == "F8_E4M3"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.2.scale_weight", "fp8 with scales"),
        ("out.2.weight.absmax", "NF4 or int8 by bitsandbytes"),
        ("out.2.weight.quant_state.bitsandbytes__nf4", "NF4 or int8 by bitsandbytes"),
        ("out.2.qweight", "4 or 8 bits"),
    ],
)
def test_what_is_quantised_is_refused_with_what_to_take(tmp_path, name, message):
    checkpoints.save(
        model(families()["sd1"].process(), linear=False), tmp_path / "a.safetensors", "single-file"
    )
    state = load_file(tmp_path / "a.safetensors")
    save_file({**state, f"model.diffusion_model.{name}": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(
        BadInput,
        match=rf"is quantised \({name}: {message}\); take the fp16, bf16 or plain fp8 file",
    ):
        checkpoints.read(tmp_path / "a.safetensors", {"heads": 2})
