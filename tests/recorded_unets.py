"""U-Nets of the recordings, for the tests."""

import json

import torch

from recorded import Recording
from safelight.denoisers.unet.network import UNet
from safelight.layouts.unet import diffusers as diffusers_unet
from safelight.layouts.unet import ldm as ldm_unet
from safelight.types.networks import Tokens

LDM, PEER = ldm_unet.LAYOUTS[0], diffusers_unet.LAYOUTS[0]
SAID = {
    "sd1": {"heads": 4},
    "sd1-inpaint": {"heads": 4},
    "sd1-edit": {"heads": 4},
    "sd-x4-upscaler": {"heads": 2},
}


def tokens(values):
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def loaded(layout, file, said) -> UNet:
    """The network of a file's bare names, which the table brings back to the bit."""
    shapes = {name: tuple(one.shape) for name, one in file.items()}
    assert [one.recognises(shapes) for one in (LDM, PEER)] == [layout is LDM, layout is PEER]
    config = layout.config(shapes, said)
    network, table = config.build(), layout.table(config)
    ours = dict(table.to_ours(file, network.state_dict(), "the file"))
    network.load_state_dict(ours)
    again = dict(table.to_theirs(ours))
    assert again.keys() == file.keys()
    assert all(torch.equal(again[name], file[name]) for name in file)
    return network.eval()


def of_recording(name) -> tuple[UNet, Recording]:
    recording, prefix = Recording(name), "model.diffusion_model."
    whole = recording.weights("model.safetensors")
    file = {
        name.removeprefix(prefix): one for name, one in whole.items() if name.startswith(prefix)
    }
    return loaded(LDM, file, SAID.get(name, {"head_width": 8})), recording


def of_folder(name) -> tuple[UNet, Recording]:
    recording = Recording("diffusers-folders")
    folder = recording.file(f"{name}/unet")
    said = json.loads((folder / "config.json").read_text())
    (weights,) = folder.glob("*.safetensors")
    network = loaded(PEER, recording.weights(f"{name}/unet/{weights.name}"), said)
    told = PEER.describe(network.config)
    shapes = {
        key: tuple(one.shape)
        for key, one in PEER.table(network.config).to_theirs(network.state_dict())
    }
    assert PEER.config(shapes, told) == network.config
    return network, recording
