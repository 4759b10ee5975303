"""Where models are: embedded names, folders of ours, files and folders of other programs."""

from pathlib import Path

from safelight.errors import BadInput, unknown

EMBEDDED = Path(__file__).parent.parent / "models"


def embedded() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))


def local_path(source: str | Path) -> Path:
    """The path of a source; a model on the hub is downloaded first.

    A name that is neither a path nor a model on the hub is returned as it is.
    """
    path = Path(source)
    if path.exists() or str(source) in embedded():
        return path
    from safelight.checkpoints.hub import fetch, is_identifier

    return fetch(str(source)) if is_identifier(str(source)) else path


def native_folder(source: str | Path) -> Path:
    """The native folder of an embedded model, a model folder or a run folder; else BadInput."""
    path = Path(source)
    if str(source) in embedded():
        return EMBEDDED / str(source)
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file() and (folder / "manifest.json").is_file():
            return folder
    if path.is_dir():
        hint = "; its run has not saved a model yet" if (path / "metrics.jsonl").exists() else ""
        raise BadInput(
            f"{str(path)!r} holds no model: wanted config.json and manifest.json in it{hint}."
        )
    if path.is_file():
        raise BadInput(
            f"{str(path)!r} is a single file; "
            "wanted a model folder, a run folder or an embedded name."
        )
    if path.suffix or len(path.parts) > 1:
        raise BadInput(
            f"there is no file or folder {str(path)!r}; "
            f"wanted one, or an embedded model: {embedded()[0]}."
        )
    raise unknown("model", str(source), embedded())


def is_foreign(path: Path) -> bool:
    """Whether a path is a file, or a folder in a layout of another program."""
    return path.is_file() or (path / "model_index.json").is_file() or is_part_folder(path)


def is_part_folder(folder: Path) -> bool:
    """Whether a folder holds one part in the layout of diffusers or transformers."""
    return (
        (folder / "config.json").is_file()
        and not (folder / "manifest.json").is_file()
        and any(folder.glob("*.safetensors*"))
    )
