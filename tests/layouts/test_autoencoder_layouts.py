"""First stages in the layouts of others: real lists of names, recordings, and there and back."""

import pytest
import torch

from recorded import Recording, error, real_shapes
from safelight.autoencoders.kl import config as kl_config
from safelight.errors import BadInput
from safelight.layouts.autoencoder import diffusers as diffusers_autoencoder
from safelight.layouts.autoencoder import ldm as ldm_autoencoder
from safelight.layouts.key_mapping import Layout
from safelight.types.networks import Encoding

REAL = {
    "real.VAE-v1-SD": ldm_autoencoder,
    "flux1-ae.bfl": ldm_autoencoder,
    "flux2-ae.bfl": ldm_autoencoder,
    "sd15.vae.diffusers": diffusers_autoencoder,
    "sdxl.vae.diffusers": diffusers_autoencoder,
    "sd3-medium.vae.diffusers": diffusers_autoencoder,
    "flux1-dev.vae.diffusers": diffusers_autoencoder,
}


def only(module, shapes) -> Layout:
    (found,) = [one for one in module.LAYOUTS if one.recognises(shapes)]
    return found


@pytest.mark.parametrize("name", REAL)
def test_a_real_list_fits_with_nothing_missing_or_left_over(name):
    shapes = real_shapes(name)
    layout = only(REAL[name], shapes)
    config = layout.config(shapes, {})
    with torch.device("meta"):
        network = config.build()
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    table = layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), name))
    rest = set() if config.packed > 1 else {"scale.mean", "scale.deviation"}
    assert set(network.state_dict()) - set(ours) == rest
    assert {key: tuple(one.shape) for key, one in table.to_theirs(ours)} == shapes
    if config.latent_channels == 4:
        assert sum(p.numel() for p in network.decoder.parameters()) == 49_490_179


@pytest.mark.parametrize(("folder", "name"), [("ldm-kl", "f8"), ("ldm-vq", "f4"), ("ldm-vq", "f8")])
@torch.no_grad()
def test_a_recorded_file_comes_back_to_the_bit_and_gives_what_it_gave(folder, name):
    recording = Recording(folder)
    file = {
        key.removeprefix("first_stage_model."): one
        for key, one in recording.weights(f"{name}.safetensors").items()
    }
    shapes = {key: tuple(one.shape) for key, one in file.items()}
    layout = only(ldm_autoencoder, shapes)
    config = layout.config(shapes, {})
    network, table = config.build(), layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), name))
    network.load_state_dict(network.state_dict() | ours)
    again = dict(table.to_theirs(ours))
    assert again.keys() == file.keys()
    assert all(torch.equal(again[key], file[key]) for key in file)
    latents = network.encode(recording.inputs[f"{name}.image"]).mode()
    names = ("mean", "decode_mode") if folder == "ldm-kl" else ("prequant", "decode")
    assert error(latents, recording.outputs[f"{name}.{names[0]}"]) < 1e-4
    assert error(network.decode(latents), recording.outputs[f"{name}.{names[1]}"]) < 1e-4


@torch.no_grad()
def test_flux_s_first_stages_give_what_they_gave():
    for family, packed in (("flux-dev", 1), ("flux2", 2)):
        recording = Recording(family)
        file = recording.weights("ae.safetensors")
        layout = only(
            ldm_autoencoder, shapes := {key: tuple(one.shape) for key, one in file.items()}
        )
        config = layout.config(shapes, {})
        assert config.packed == packed
        network, table = config.build(), layout.table(config)
        if packed == 1:
            network.scale.mean.fill_(0.1159)
            network.scale.deviation.fill_(1 / 0.3611)
        network.load_state_dict(
            network.state_dict() | dict(table.to_ours(file, network.state_dict(), family))
        )
        again = dict(table.to_theirs(network.state_dict()))
        assert again.keys() == file.keys()
        assert all(torch.equal(again[key], file[key]) for key in file)
        inputs, outputs = recording.inputs, recording.outputs
        encoded = network.encode(inputs["image"]).mode()
        assert tuple(encoded.shape) == network.latent_shape(tuple(inputs["image"].shape))
        assert error(encoded, outputs["ae.encode_mean" if packed == 1 else "ae.encode"]) < 1e-4
        assert error(network.decode(encoded), outputs["ae.decode"]) < 1e-4
        assert error(network.decode(outputs["euler.latents"][-1]), outputs["decode.euler"]) < 1e-4


def test_packed_latents_equal_those_of_diffusers():
    peer = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    ours = kl_config.Config(8, (1, 2), 1, latent_channels=3, groups=4, packed=2).build()
    ours.scale.measure([Encoding(3 * torch.randn(4, 12, 8, 8) + 1)])
    (layout,) = [
        one
        for one in diffusers_autoencoder.LAYOUTS
        if one.describe
        and one.recognises(
            {"encoder.down_blocks.0.resnets.0.conv1.weight": (), "decoder.conv_in.weight": ()}
        )
    ]
    described = dict(layout.describe(ours.config))
    assert described.pop("_class_name") == "AutoencoderKLFlux2"
    theirs = peer.AutoencoderKLFlux2(**described).eval()
    written = dict(layout.table(ours.config).to_theirs(ours.state_dict()))
    theirs.load_state_dict(written)
    assert (
        layout.config({key: tuple(one.shape) for key, one in written.items()}, described)
        == ours.config
    )
    images = torch.rand(2, 3, 16, 8) * 2 - 1
    with torch.no_grad():
        mode = torch.nn.functional.pixel_unshuffle(theirs.encode(images).latent_dist.mode(), 2)
        deviation = (theirs.bn.running_var + theirs.bn.eps).sqrt()
        wanted = (mode - theirs.bn.running_mean[:, None, None]) / deviation[:, None, None]
        assert error(ours.encode(images).mode(), wanted) < 1e-5


def test_what_does_not_fit_is_named():
    shapes = real_shapes("real.VAE-v1-SD")
    layout = only(ldm_autoencoder, shapes)
    config = layout.config(shapes, {})
    with torch.device("meta"):
        wanted = config.build().state_dict()
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    bias = file.pop("encoder.conv_in.bias")
    with pytest.raises(BadInput, match=r"encoder\.conv_in\.bias is missing; more is not expected"):
        dict(layout.table(config).to_ours(file | {"more": bias}, wanted, "it"))
    with pytest.raises(BadInput, match=r"has shape \(3,\), wanted \(128,\)"):
        dict(layout.table(config).to_ours(file | {"encoder.conv_in.bias": bias[:3]}, wanted, "it"))
