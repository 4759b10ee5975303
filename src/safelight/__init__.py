"""Safelight: latent diffusion that you own. The public names are loaded when first used; importing
costs nothing."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safelight.checkpoints import load as load
    from safelight.checkpoints import save as save
    from safelight.errors import BadInput as BadInput
    from safelight.errors import SafelightError as SafelightError
    from safelight.model import LatentDiffusion as LatentDiffusion
    from safelight.pipeline import generate as generate
    from safelight.pipeline import steps as steps
    from safelight.settings import Settings as Settings
    from safelight.tasks.compose import Compose as Compose
    from safelight.tasks.text_to_image import TextToImage as TextToImage

try:
    __version__ = version("safelight")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0"

_PUBLIC = {
    "BadInput": "safelight.errors",
    "Compose": "safelight.tasks.compose",
    "LatentDiffusion": "safelight.model",
    "SafelightError": "safelight.errors",
    "Settings": "safelight.settings",
    "TextToImage": "safelight.tasks.text_to_image",
    "generate": "safelight.pipeline",
    "load": "safelight.checkpoints",
    "save": "safelight.checkpoints",
    "steps": "safelight.pipeline",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'safelight' has no attribute {name!r}")
    return vars(import_module(_PUBLIC[name]))[name]


def __dir__() -> list[str]:
    return sorted(__all__)
