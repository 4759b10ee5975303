"""The run folder, a run's only output: recipe, origin, data record, metrics, samples, checkpoints, model."""

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
        """Whole checkpoints, the newest last."""
        return sorted(
            path for path in (self.folder / "checkpoints").glob("[0-9]*") if path.is_dir()
        )

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep the folder for this process; Busy if another has it. One that was made in vain is removed again."""
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(
                f"the run {str(self.folder)!r} is in use by another process; wait for it, or choose another --run."
            ) from None
        except OSError as error:
            raise CannotSave(
                f"cannot use the run folder {str(self.folder)!r}: {error.strerror}."
            ) from error
        try:
            yield
        finally:
            lock.release()
            if made and {path.name for path in self.folder.iterdir()} <= {"lock"}:
                (self.folder / "lock").unlink(missing_ok=True)
                for path in made:
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
        """Write down what this run is, on which data and where it runs, once a start."""
        self.record("config", dump(self.recipe))
        self.record("data", data)
        starts = (self.recall("origin") or {"starts": []})["starts"]
        self.record(
            "origin", {"starts": [*starts, origin(self.recipe.seed) | {"processes": processes}]}
        )

    def measured(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        try:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise CannotSave(
                f"cannot write metrics in {str(self.folder)!r}: {error.strerror}."
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def rewind(self, update: int) -> None:
        """Forget metrics after ``update``: a killed run writes them again."""
        kept = [line for line in self.metrics() if line["update"] <= update]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def tidy(self) -> None:
        """Remove all but the newest checkpoints, and what a killed process left aside."""
        for old in self.checkpoints[: -self.recipe.watch.keep or None]:
            shutil.rmtree(old)
        for left in [path for kind in ("part", "old") for path in self.folder.rglob(f".*.{kind}")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def open_run(
    target: Path,
    folder: Path | None = None,
    changes: tuple[str, ...] = (),
    hints: Mapping[str, str] | None = None,
) -> Run:
    """A run from a recipe file (begun, or gone on with if its folder holds the same recipe) or from a run folder.

    ``hints`` go into ``objective.hints``: what the file that it stands on cannot tell.
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
        kept = read(Recipe, _json(target / "config.json"))
        return Run(target, override(Recipe, kept, changes))
    recipe = override(Recipe, read(Recipe, read_toml(target)), changes)
    run = Run(folder or Path("runs") / target.stem, recipe)
    earlier = run.recall("config")
    if earlier is not None and dump(read(Recipe, earlier)) != dump(recipe):
        raise BadInput(
            f"{str(run.folder)!r} holds a run of another recipe; go on with it by 'safelight train {run.folder}', "
            "or choose another --run."
        )
    return run


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(
            f"{str(path)!r} cannot be read: {error}; put it back, or begin a new run."
        ) from None


def origin(seed: int) -> dict[str, Any]:
    """What a run came from: versions, commit, hardware."""
    return {
        "safelight": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seed": seed,
    }


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        got = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return got.stdout.strip() or None
