"""The record of a run's data, which is examined first and must be the same when the run resumes."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from safelight.data.dataset import Dataset
from safelight.data.examples import Examination, Source, examine
from safelight.errors import BadInput
from safelight.training.objective import ProgressCallback
from safelight.training.run import Run


def examine_data(run: Run, progress: ProgressCallback) -> tuple[Dataset, Dataset, dict[str, Any]]:
    """The training and the validation data, and the record of both.

    BadInput if a run that resumes began with other data.
    """
    recipe = run.recipe
    datasets: dict[str, Dataset] = {}
    records: dict[str, Any] = {}
    for name, config in {"data": recipe.data, "validation": recipe.validation}.items():
        if config is None:
            continue
        source = config.build()
        examination = examine(source, partial(progress, f"reading {name}"))
        datasets[name] = Dataset(source, examination, recipe.framing, recipe.seed)
        records[name] = _record(source, examination)
    require_same_data(run, records)
    return datasets["data"], datasets.get("validation", datasets["data"]), records


def require_same_data(run: Run, records: Mapping[str, Any]) -> None:
    """BadInput if a run that resumes began with other data, or with another trained autoencoder."""
    earlier = run.recall("data") if run.checkpoints else None
    if earlier is None:
        return
    then, now = earlier["data"], records["data"]
    if then["digest"] != now["digest"]:
        raise BadInput(
            f"the data differs from the data that {str(run.folder)!r} began with "
            f"({then['good']} pictures then, {now['good']} now, or other ones); "
            "restore it, or start a new run."
        )
    parents = records.get("parents")
    if parents is not None and earlier.get("parents", parents) != parents:
        raise BadInput(
            f"{str(run.folder)!r} began with {earlier['parents']}, but this is {parents}; "
            "restore it, or start a new run."
        )


def _record(source: Source, examination: Examination) -> dict[str, Any]:
    return {
        **source.origin(),
        "good": len(examination.good),
        "broken": list(examination.broken),
        "digest": examination.digest,
    }
