"""Models in files: ``load`` from what the user has, ``save`` for others to load."""

from pathlib import Path
from typing import TYPE_CHECKING

from safelight.errors import BadInput, unknown

if TYPE_CHECKING:
    from safelight.model import LatentDiffusion

EMBEDDED = Path(__file__).parent.parent / "models"


def embedded() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))


def locate(source: str | Path) -> Path:
    """The native folder that ``source`` names: an embedded model, a model folder or a run folder."""
    path = Path(source)
    if str(source) in embedded():
        return EMBEDDED / str(source)
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file() and (folder / "manifest.json").is_file():
            return folder
    if path.is_dir():
        hint = "; its run has not saved a model yet" if (path / "metrics.jsonl").exists() else ""
        raise BadInput(f"{str(path)!r} holds no model: wanted config.json and manifest.json in it{hint}.")
    if path.is_file():
        raise BadInput(f"{str(path)!r} is a single file; wanted a model folder, a run folder or an embedded name.")
    raise unknown("model", str(source), embedded())


def load(source: str | Path = "stickers", device: str = "auto", precision: str = "auto") -> "LatentDiffusion":
    """A model by embedded name, model folder or run folder; ``precision`` is auto, fp32 or bf16.

    Raises BadInput if there is none, or if a file is not whole.
    """
    from safelight.checkpoints.native import read_model
    from safelight.runtime import prepare

    return prepare(read_model(locate(source)), device, precision)


def save(model: "LatentDiffusion", folder: str | Path, dialect: str = "native") -> None:
    """Write a model folder: config.json, one safetensors a part, a card and a manifest of hashes."""
    from safelight.checkpoints.native import write_model

    if dialect != "native":
        raise unknown("dialect", dialect, ["native"])
    write_model(model, Path(folder))
