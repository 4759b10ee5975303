"""What a run is trained on: examined before anything else, recorded, and the same when the run goes on."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from safelight.data.dataset import Dataset
from safelight.data.examples import Examination, Source, examine
from safelight.errors import BadInput
from safelight.training.objective import Report
from safelight.training.run import Run


def examined(run: Run, report: Report) -> tuple[Dataset, Dataset, dict[str, Any]]:
    """The examined data to train on and to look at, and the record of both; a run goes on only with the same data."""
    recipe = run.recipe
    datasets: dict[str, Dataset] = {}
    records: dict[str, Any] = {}
    for name, config in {"data": recipe.data, "validation": recipe.validation}.items():
        if config is None:
            continue
        source = config.build()
        found = examine(source, partial(report, f"reading {name}"))
        datasets[name] = Dataset(source, found, recipe.framing, recipe.seed)
        records[name] = _record(source, found)
    require_same(run, records)
    return datasets["data"], datasets.get("validation", datasets["data"]), records


def require_same(run: Run, records: Mapping[str, Any]) -> None:
    """A run goes on only with the data, and on the model, that it began with; BadInput says what is another."""
    earlier = run.recall("data") if run.checkpoints else None
    if earlier is None:
        return
    then, now = earlier["data"], records["data"]
    if then["digest"] != now["digest"]:
        raise BadInput(
            f"the data is not what {str(run.folder)!r} began with ({then['good']} pictures then, {now['good']} now, "
            "or other ones); restore it, or begin a new run."
        )
    if (
        "stands on" in records
        and earlier.get("stands on", records["stands on"]) != records["stands on"]
    ):
        raise BadInput(
            f"{str(run.folder)!r} began on {earlier['stands on']}, and this is {records['stands on']}; restore it, or "
            "begin a new run."
        )


def _record(source: Source, found: Examination) -> dict[str, Any]:
    return {
        **source.origin(),
        "good": len(found.good),
        "broken": list(found.broken),
        "digest": found.digest,
    }
