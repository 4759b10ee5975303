"""A tiny model, whole, and the folder that it was saved to."""

import pytest
import torch

import safelight
from safelight.autoencoders.kl.config import Config as KLConfig
from safelight.card import Card
from safelight.conditioners.text import Config as TextConfig
from safelight.denoisers.dit.config import Config as DiTConfig
from safelight.diffusion.prediction import V
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Cosine
from safelight.model import LatentDiffusion
from safelight.settings import Settings
from safelight.types.networks import Prompt


@pytest.fixture
def model() -> LatentDiffusion:
    torch.manual_seed(0)
    conditioner = TextConfig(vocabulary=300, length=8, width=8, depth=1, heads=2).build()
    conditioner.fit(Prompt(text) for text in ("a red fox", "a blue owl", "a bear"))
    denoiser = DiTConfig(width=16, depth=1, heads=2, text_width=8, vector_width=8).build()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    autoencoder = KLConfig(width=8, multipliers=(1, 1), blocks=1, groups=4).build()
    autoencoder.scale.mean.fill_(0.1)
    card = Card(
        name="füchse",
        summary="Draws foxes.",
        size=(16, 24),
        settings=Settings(steps=3, guidance="interval:scale=2"),
        licence="CC0",
        data=({"paths": ["foxes.zip"], "count": 3},),
        origin={"updates": 5},
    )
    return LatentDiffusion(autoencoder, conditioner, denoiser, Process(Cosine(), V()), card)


@pytest.fixture
def folder(model, tmp_path):
    safelight.save(model, tmp_path / "saved")
    return tmp_path / "saved"
