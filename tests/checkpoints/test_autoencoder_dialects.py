"""First stages in the layouts of others: real lists of names, recordings, and there and back."""

import pytest
import torch

from recorded import Recording, error, real_shapes
from safelight.checkpoints.dialects import diffusers_autoencoder, ldm_autoencoder
from safelight.checkpoints.table import Dialect
from safelight.errors import BadInput

REAL = {
    "real.VAE-v1-SD": ldm_autoencoder,
    "flux1-ae.bfl": ldm_autoencoder,
    "sd15.vae.diffusers": diffusers_autoencoder,
    "sdxl.vae.diffusers": diffusers_autoencoder,
    "sd3-medium.vae.diffusers": diffusers_autoencoder,
    "flux1-dev.vae.diffusers": diffusers_autoencoder,
}


def only(module, shapes) -> Dialect:
    (found,) = [one for one in module.DIALECTS if one.recognises(shapes)]
    return found


@pytest.mark.parametrize("name", REAL)
def test_a_real_list_fits_with_nothing_missing_or_left_over(name):
    shapes = real_shapes(name)
    dialect = only(REAL[name], shapes)
    config = dialect.config(shapes, {})
    with torch.device("meta"):
        network = config.build()
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    table = dialect.table(config)
    ours = dict(table.read(file, network.state_dict(), name))
    assert set(network.state_dict()) - set(ours) == {"scale.mean", "scale.deviation"}
    assert {key: tuple(one.shape) for key, one in table.write(ours)} == shapes
    if config.latent_channels == 4:
        assert sum(p.numel() for p in network.decoder.parameters()) == 49_490_179


@pytest.mark.parametrize(("folder", "name"), [("ldm-kl", "f8"), ("ldm-vq", "f4"), ("ldm-vq", "f8")])
@torch.no_grad()
def test_a_recorded_file_comes_back_to_the_bit_and_gives_what_it_gave(folder, name):
    recording = Recording(folder)
    file = {
        key.removeprefix("first_stage_model."): one for key, one in recording.weights(f"{name}.safetensors").items()
    }
    shapes = {key: tuple(one.shape) for key, one in file.items()}
    dialect = only(ldm_autoencoder, shapes)
    config = dialect.config(shapes, {})
    network, table = config.build(), dialect.table(config)
    ours = dict(table.read(file, network.state_dict(), name))
    network.load_state_dict(network.state_dict() | ours)
    again = dict(table.write(ours))
    assert again.keys() == file.keys()
    assert all(torch.equal(again[key], file[key]) for key in file)
    latents = network.encode(recording.inputs[f"{name}.image"]).mode()
    names = ("mean", "decode_mode") if folder == "ldm-kl" else ("prequant", "decode")
    assert error(latents, recording.outputs[f"{name}.{names[0]}"]) < 1e-4
    assert error(network.decode(latents), recording.outputs[f"{name}.{names[1]}"]) < 1e-4


def test_what_does_not_fit_is_named():
    shapes = real_shapes("real.VAE-v1-SD")
    dialect = only(ldm_autoencoder, shapes)
    config = dialect.config(shapes, {})
    with torch.device("meta"):
        wanted = config.build().state_dict()
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    bias = file.pop("encoder.conv_in.bias")
    with pytest.raises(BadInput, match=r"encoder\.conv_in\.bias is missing; more is not expected"):
        dict(dialect.table(config).read(file | {"more": bias}, wanted, "it"))
    with pytest.raises(BadInput, match=r"has shape \(3,\), wanted \(128,\)"):
        dict(dialect.table(config).read(file | {"encoder.conv_in.bias": bias[:3]}, wanted, "it"))
