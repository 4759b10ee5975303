"""The run folder: recipe, origin, data record, metrics, samples, checkpoints and model."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from safelight import __version__, old_names
from safelight.config import dump, override, read, read_toml
from safelight.errors import BadInput, Busy, CannotSave
from safelight.files import write_text
from safelight.training.recipe import Recipe


class Run:
    """A folder that holds one training run. ``claim`` it before writing."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe

    @property
    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, the newest last."""
        return sorted(
            path for path in (self.folder / "checkpoints").glob("[0-9]*") if path.is_dir()
        )

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Lock the folder for this process; Busy if another has it locked.

        A folder that is still empty at the end is removed again.
        """
        created = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(
                f"the run {str(self.folder)!r} is in use by another process; "
                "wait for it, or choose another --run."
            ) from None
        except OSError as error:
            raise CannotSave(
                f"cannot use the run folder {str(self.folder)!r}: {error.strerror}."
            ) from error
        try:
            yield
        finally:
            lock.release()
            if created and {path.name for path in self.folder.iterdir()} <= {"lock"}:
                (self.folder / "lock").unlink(missing_ok=True)
                for path in created:
                    path.rmdir()

    def record(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file of the run."""
        write_text(
            self.folder / f"{name}.json", json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        )

    def recall(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file of the run, or None."""
        path = self.folder / f"{name}.json"
        return old_names.TABLE.options(f"run.{name}", _json(path)) if path.exists() else None

    def begin(self, data: Mapping[str, Any], processes: int = 1) -> None:
        """Write the recipe, the record of the data and, once per start, where the run came from."""
        self.record("config", dump(self.recipe))
        self.record("data", data)
        starts = (self.recall("origin") or {"starts": []})["starts"]
        self.record(
            "origin", {"starts": [*starts, origin(self.recipe.seed) | {"processes": processes}]}
        )

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        try:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise CannotSave(
                f"cannot write metrics in {str(self.folder)!r}: {error.strerror}."
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def rewind(self, update: int) -> None:
        """Remove metrics after ``update``, which a resumed run writes again."""
        kept = [line for line in self.metrics() if line["update"] <= update]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def tidy(self) -> None:
        """Remove all but the newest checkpoints, and unfinished files of a killed process."""
        for old in self.checkpoints[: -self.recipe.watch.keep or None]:
            shutil.rmtree(old)
        for path in [path for kind in ("part", "old") for path in self.folder.rglob(f".*.{kind}")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def open_run(
    target: Path,
    folder: Path | None = None,
    changes: tuple[str, ...] = (),
    hints: Mapping[str, str] | None = None,
) -> Run:
    """A run from a recipe file or a run folder; one whose folder holds the same recipe resumes.

    ``hints`` go into ``objective.hints``: facts that the file of the autoencoder does not hold.
    """
    if hints:
        table = ", ".join(
            f"{json.dumps(key)} = {json.dumps(value)}" for key, value in hints.items()
        )
        changes = (*changes, f"objective.hints={{{table}}}")
    if target.is_dir():
        if not (target / "config.json").exists():
            raise BadInput(
                f"{str(target)!r} is not a run folder: it has no config.json; give a recipe.toml."
            )
        recipe = read(Recipe, _json(target / "config.json"))
        return Run(target, override(Recipe, recipe, changes))
    recipe = override(Recipe, read(Recipe, read_toml(target)), changes)
    run = Run(folder or Path("runs") / target.stem, recipe)
    earlier = run.recall("config")
    if earlier is not None and dump(read(Recipe, earlier)) != dump(recipe):
        raise BadInput(
            f"{str(run.folder)!r} holds a run of another recipe; "
            f"resume it with 'safelight train {run.folder}', or choose another --run."
        )
    return run


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(
            f"{str(path)!r} cannot be read: {error}; restore it, or start a new run."
        ) from None


def origin(seed: int) -> dict[str, Any]:
    """Versions, commit and hardware of a start of a run."""
    return {
        "safelight": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads"
        ),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seed": seed,
    }


def _commit() -> str | None:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
