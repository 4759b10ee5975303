"""The KL autoencoder against recordings of others, and what it promises."""

import pytest
import torch
from ldm_layout import body, is_close, renamed

from recorded import Recording
from safelight.autoencoders.kl.config import Config
from safelight.autoencoders.kl.network import KL
from safelight.checkpoints.state_dicts import load_strictly
from safelight.errors import BadInput
from safelight.types.networks import Encoding


@pytest.fixture(scope="module", params=["f8", "f4"])
def case(request) -> tuple[str, KL, Recording]:
    recording = Recording("ldm-kl")
    config = Config(**body(recording.facts["config"][request.param]))
    autoencoder = config.build()
    if request.param == "f8":
        weights = recording.weights("f8.safetensors")
    else:
        weights = torch.load(recording.file("f4.ckpt"), weights_only=True)["state_dict"]
    weights = {name: value for name, value in weights.items() if not name.startswith("loss.")}
    scale = {
        name: value for name, value in autoencoder.state_dict().items() if name.startswith("scale.")
    }
    load_strictly(autoencoder, scale | renamed(weights, config.pyramid), request.param)
    return request.param, autoencoder, recording


@torch.no_grad()
def test_the_encoding_is_theirs(case):
    name, autoencoder, recording = case
    inputs, outputs = recording.inputs, recording.outputs
    encoding = autoencoder.encode(inputs[f"{name}.image"])
    moments = torch.cat([encoding.mean, 2 * encoding.deviation.log()], dim=1)
    assert is_close(moments, outputs[f"{name}.moments"])
    assert is_close(encoding.mode(), outputs[f"{name}.mean"])
    assert is_close(encoding.deviation, outputs[f"{name}.std"])
    assert is_close(encoding.sample(inputs[f"{name}.eps"]), outputs[f"{name}.sample"])


@torch.no_grad()
def test_the_decoded_images_are_theirs(case):
    name, autoencoder, recording = case
    outputs = recording.outputs
    assert is_close(autoencoder.decode(outputs[f"{name}.mean"]), outputs[f"{name}.decode_mode"])
    assert is_close(autoencoder.decode(outputs[f"{name}.sample"]), outputs[f"{name}.decode_sample"])


def test_a_width_that_the_groups_do_not_divide_is_refused():
    with pytest.raises(
        BadInput,
        match="kl: every level's width wants to be a multiple of groups = 32, got width 48",
    ):
        Config(width=48)
    with pytest.raises(BadInput, match="at least 1"):
        Config(multipliers=())


def test_a_size_that_does_not_fit_is_told_the_nearest():
    autoencoder = Config(width=8, groups=4).build()
    with pytest.raises(BadInput, match="multiples of 8, got 101×3; the nearest is 104×8"):
        autoencoder.latent_shape((1, 3, 3, 101))


def test_the_convolutions_beside_the_latents_can_be_left_out():
    names = Config(width=8, groups=4, quant=False).build().state_dict()
    assert not [name for name in names if "quant" in name]
    assert [name for name in Config(width=8, groups=4).build().state_dict() if "quant" in name]


def test_its_cost_is_the_divergence_from_the_standard_normal():
    autoencoder = Config(width=8, multipliers=(1, 2), blocks=1, groups=4).build()
    mean, deviation = torch.full((2, 4, 3, 3), 0.5), torch.full((2, 4, 3, 3), 2.0)
    mean[1], deviation[1] = 0, 1
    (kl,) = autoencoder.regularisers(Encoding(mean, deviation)).values()
    want = torch.distributions.kl_divergence(
        torch.distributions.Normal(0.5, 2.0), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl, torch.stack([want, torch.zeros(())]))
