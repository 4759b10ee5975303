"""Toy files in the layouts of latent diffusion's zoo, for the tests."""

import torch
from safetensors.torch import save_file

from safelight.autoencoders.vq import config as vq_config
from safelight.denoisers.unet import config as unet_config
from safelight.layouts.autoencoder import ldm as ldm_autoencoder
from safelight.layouts.unet import ldm as ldm_unet
from safelight.nn.configs import Codes

FIRST = vq_config.Config(
    width=32, multipliers=(1, 2), blocks=1, middle=False, codebook=Codes(16), legacy=True
)
LEVELS = (unet_config.Level(32, 0, 1), unet_config.Level(64, 1, 1))


def drawn(module):
    """The module with every weight at random, so that nothing is at zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    return module.eval()


def betas(first=0.0015, last=0.0195):
    return {
        "betas": torch.linspace(first**0.5, last**0.5, 1000, dtype=torch.float64).square().float()
    }


def named(layout, config, prefix):
    """The tensors of a part of this configuration, by the names of this dialect behind a prefix."""
    ours = drawn(config.build()).state_dict()
    return {f"{prefix}{name}": one for name, one in layout.table(config).to_theirs(ours)}


def network(config):
    """The tensors of a U-Net, by the names of single files."""
    return named(ldm_unet.LAYOUTS[0], config, "model.diffusion_model.")


def first_stage(config=FIRST):
    """The tensors of a first stage, likewise."""
    layout = next(one for one in ldm_autoencoder.LAYOUTS if type(one.example) is type(config))
    return named(layout, config, "first_stage_model.")


def written(path, *parts):
    """The file that holds all parts."""
    file = {name: one.clone().contiguous() for part in parts for name, one in part.items()}
    save_file(file, path)
    return path
