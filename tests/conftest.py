"""What many tests share: one thread, a cache of their own, and small models."""

import importlib
import os
import typing

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: processes that tests start do the same

import pytest
import torch
from jaxtyping import config as jaxtyping
from jaxtyping import install_import_hook

ROOMS = (
    "diffusion",
    "nn",
    "media",
    "autoencoders",
    "denoisers",
    "conditioners",
    "features",
    "model",
)
WITHOUT_TORCH = ("types.networks", "types.diffusion", "diffusion.schedule", "diffusion.prediction")
"""Modules whose signatures are checked, and that import torch for annotations only."""


def pytest_configure(config):
    """Check shapes in signatures between rooms, except in slow tests, which compile."""
    if config.option.markexpr != "slow":
        install_import_hook([f"safelight.{room}" for room in ROOMS], "typechecker.checked")
        import_annotations()


def import_annotations():
    """Import modules with what they import for annotations only, so that these can be checked."""
    for name in ("config", "media.pictures"):  # pydantic and the checker are not to see this
        importlib.import_module(f"safelight.{name}")
    typing.TYPE_CHECKING = True
    try:
        for name in WITHOUT_TORCH:
            importlib.import_module(f"safelight.{name}")
    finally:
        typing.TYPE_CHECKING = False


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test writes to the cache of the user."""
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def unchecked():
    """Without checks of the shapes in signatures, which takes half the time."""
    jaxtyping.update("jaxtyping_disable", True)
    yield
    jaxtyping.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """As in the processes that tests start, so that sums come out the same."""
    torch.set_num_threads(1)


@pytest.fixture
def muon_in_bf16(monkeypatch):
    """Muon computes in bf16 on every device, as it did when old runs were recorded."""
    monkeypatch.setattr("safelight.training.optimisers.dtype_of", lambda *_: torch.bfloat16)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of twelve pictures with captions and labels."""
    import making  # not before the shapes are checked

    return making.shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A whole tiny model in a folder; also an autoencoder to train a denoiser on."""
    import making

    return making.saved_model(tmp_path_factory.mktemp("models") / "tiny")
