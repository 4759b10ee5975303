"""The loop. It reads top to bottom: prepare, then update, write, look and save until done."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safelight.checkpoints.native import write_model
from safelight.data.dataset import Dataset
from safelight.data.examples import Examination, Order, Source, examine
from safelight.errors import BadInput, SafelightError
from safelight.files import writing
from safelight.model import Card
from safelight.runtime import device_of, dtype_of
from safelight.settings import Settings
from safelight.training.objective import Group, Objective, Report, Setting
from safelight.training.plot import plot
from safelight.training.run import Run
from safelight.training.state import Ema, State


@dataclass(frozen=True)
class Progress:
    """What a run tells after every update: how far it is, and the newest measures by name."""

    update: int
    updates: int
    measured: Mapping[str, float]
    pictures_a_second: float


def train(run: Run, cache: Path, report: Report, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
    """Train a claimed run to its end, or until ``stop`` says so; either way its state is saved.

    Yields after each update. Raises SafelightError if the loss is no longer a number.
    """
    recipe = run.recipe
    run.begin()
    training, checks = _datasets(run, report)
    objective, state = _build(run, cache)
    objective.prepare([training, checks], report)
    update = state.load(run.checkpoints[-1]) if run.checkpoints else 0
    run.rewind(update)
    feed = _prefetched(objective, training, recipe.loop.batch, recipe.loop.accumulate, recipe.seed, update)
    watch = recipe.watch
    recent: dict[str, list[Tensor]] = {}
    began = time.perf_counter()
    while update < recipe.loop.updates and not stop():
        rate = recipe.rate.at(update, recipe.loop.updates)
        for name, value in _update(run, objective, state, next(feed), rate, update).items():
            recent.setdefault(name, []).append(value)
        update += 1
        last = update == recipe.loop.updates
        took = time.perf_counter() - began
        measured = {name: float(values[-1]) for name, values in recent.items()}
        if _due(update, watch.write, last):
            _alive(measured, update, run)
            means = {name: float(torch.stack(values).mean()) for name, values in recent.items()}
            run.measured({"update": update, **means, "rate": rate, "pictures_a_second": recipe.loop.batch / took})
            recent.clear()
        if _due(update, watch.check, last):
            _check(run, objective, state, checks, update)
        if _due(update, watch.sheet, last):
            _draw(run, objective, state, checks, update)
        if _due(update, watch.save, last):
            _save(run, objective, state, training, update)
        began = time.perf_counter()
        yield Progress(update, recipe.loop.updates, measured, recipe.loop.batch / took)
    if update < recipe.loop.updates:
        _save(run, objective, state, training, update)


def _datasets(run: Run, report: Report) -> tuple[Dataset, Dataset]:
    """The examined data; what it is gets recorded, and a run goes on only with the same data."""
    recipe, records = run.recipe, {}
    datasets = {}
    for name, config in {"data": recipe.data, "validation": recipe.validation}.items():
        if config is None:
            continue
        source = config.build()
        skip = vars(config).get("broken") == "skip"
        found = examine(source, skip, lambda done, total, name=name: report(f"reading {name}", done, total))  # type: ignore[misc]
        datasets[name] = Dataset(source, found, recipe.framing, recipe.seed)
        records[name] = _record(source, found)
    earlier = run.recall("data")
    if earlier is not None and run.checkpoints and earlier["data"]["digest"] != records["data"]["digest"]:
        raise BadInput(
            f"the data is not what {str(run.folder)!r} began with ({earlier['data']['good']} pictures then, "
            f"{records['data']['good']} now, or other ones); restore it, or begin a new run."
        )
    run.record("data", records)
    return datasets["data"], datasets.get("validation", datasets["data"])


def _record(source: Source, found: Examination) -> dict[str, Any]:
    return {**source.origin(), "good": len(found.good), "broken": list(found.broken), "digest": found.digest}


def _build(run: Run, cache: Path) -> tuple[Objective, State]:
    recipe = run.recipe
    device = device_of(recipe.loop.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        objective = recipe.objective.build(Setting(recipe.seed, cache, device, dtype_of(recipe.loop.precision, device)))
    for part in objective.parts.values():
        part.to(device)
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisers = {group.name: recipe.optimiser.build(group.parameters) for group in objective.groups}
    ema = {group.name: Ema(group.parameters, recipe.loop.ema) for group in objective.groups}
    return objective, State(objective.parts, objective.groups, optimisers, ema)


def _prefetched(
    objective: Objective, dataset: Dataset, batch: int, accumulate: int, seed: int, update: int
) -> Iterator[list[Any]]:
    """The micro-batches of each update, the next update's made in a thread while this one's are used."""

    def make(positions: Sequence[int], indices: Sequence[int]) -> list[Any]:
        return [objective.batch(dataset, positions[i::accumulate], indices[i::accumulate]) for i in range(accumulate)]

    order = Order(len(dataset), seed).batches(batch, update * batch)
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        coming = pool.submit(make, *next(order))
        while True:
            ready = coming.result()
            coming = pool.submit(make, *next(order))
            yield ready


def _update(
    run: Run, objective: Objective, state: State, batches: Sequence[Any], rate: float, update: int
) -> dict[str, Tensor]:
    """One update of every group that has begun."""
    loop = run.recipe.loop
    measured: dict[str, Tensor] = {}
    device = device_of(loop.device)
    dtype = dtype_of(loop.precision, device)
    for group in (one for one in objective.groups if update >= one.begins):
        optimiser = state.optimisers[group.name]
        with _only(group, objective.groups):
            for batch in batches:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    loss = objective.loss(group.name, batch)
                (loss.total / len(batches)).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(group.parameters.values(), loop.clip or float("inf"))
        for options in optimiser.param_groups:
            options["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
        state.ema[group.name].update(update)
        measured |= {f"{group.name}/{name}": value.detach() for name, value in loss.measured.items()}
        measured |= {f"{group.name}/loss": loss.total.detach(), f"{group.name}/gradient": norm.detach()}
    return measured


@contextmanager
def _only(group: Group, groups: Sequence[Group]) -> Iterator[None]:
    """Within the block only this group's parameters take gradients, so that none leaks into another's step."""
    others = [p for one in groups if one is not group for p in one.parameters.values()]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)


def _due(update: int, every: int, last: bool) -> bool:
    return last or (every > 0 and update % every == 0)


def _alive(measured: Mapping[str, float], update: int, run: Run) -> None:
    for name, value in measured.items():
        if value != value or abs(value) == float("inf"):
            raise SafelightError(
                f"{name} is {value} at update {update}; the last checkpoint in {str(run.folder)!r} stands. "
                'Lower rate.peak, or set loop.precision = "fp32".'
            )


@contextmanager
def _as_judged(state: State) -> Iterator[None]:
    """Within the block the weights are their running means, and nothing takes gradients."""
    with ExitStack() as stack:
        for ema in state.ema.values():
            if ema.decay:
                stack.enter_context(ema.swapped())
        stack.enter_context(torch.no_grad())
        yield


def _check(run: Run, objective: Objective, state: State, checks: Dataset, update: int) -> None:
    count = min(run.recipe.watch.pictures, len(checks))
    places = [i * len(checks) // count for i in range(count)]
    found: dict[str, list[Tensor]] = {}
    with _as_judged(state):
        for i in range(0, count, 16):
            batch = objective.batch(checks, range(i, i + len(places[i : i + 16])), places[i : i + 16])
            for name, values in objective.judge(batch).items():
                found.setdefault(name, []).append(values.float().cpu())
    means = {f"check/{name}": float(torch.cat(values).mean()) for name, values in found.items()}
    run.measured({"update": update, **means, "pictures": count})


def _draw(run: Run, objective: Objective, state: State, checks: Dataset, update: int) -> None:
    with _as_judged(state):
        page = objective.sheet(checks)
    with writing(run.folder / "samples" / f"{update:07}.png") as aside:
        page.save(aside, format="PNG")
    plot(run.metrics(), run.folder / "metrics.png")


def _save(run: Run, objective: Objective, state: State, training: Dataset, update: int) -> None:
    state.save(run.folder / "checkpoints" / f"{update:07}", update)
    with _as_judged(state):
        size = run.recipe.framing.size
        records = run.recall("data") or {}
        starts = (run.recall("origin") or {"starts": []})["starts"]
        card = Card(
            name=run.recipe.title or run.folder.name,
            size=(size, size),
            settings=Settings(),
            licence="see the licences of the training data",
            data=tuple(records.values()),
            origin={"updates": update, "batch": run.recipe.loop.batch, **(starts[-1] if starts else {})},
        )
        write_model(objective.model(card, training), run.folder / "model")
    run.tidy()
