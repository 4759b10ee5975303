"""The configuration of a native folder: which parts it has, its process and its card. No torch."""

from pathlib import Path
from typing import Any

from safelight.checkpoints.json_files import read_json
from safelight.config import Slot
from safelight.errors import BadInput, unknown

FORMAT = 1
PARTS = {
    "autoencoder": Slot("autoencoders"),
    "conditioner": Slot("conditioners"),
    "denoiser": Slot("denoisers"),
}
PROCESS = {"schedule": Slot("diffusion.schedule"), "prediction": Slot("diffusion.prediction")}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a native folder; BadInput if its format is not known."""
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise BadInput(
            f"{folder.name}: wanted a model folder of format {FORMAT}, "
            f"got {config.get('format')!r}; update Safelight or save the model again."
        )
    known = {"format", "card", *PARTS, *PROCESS}
    for key in config:
        if key not in known:
            raise unknown(f"key in {folder.name}/config.json:", key, known)
    return config
