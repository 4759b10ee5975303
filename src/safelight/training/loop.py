"""The training loop: prepare, then update, log, validate and save until done."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from safelight.card import Card
from safelight.checkpoints.native import write_model
from safelight.data.dataset import Dataset
from safelight.data.examples import Order
from safelight.errors import SafelightError
from safelight.files import writing
from safelight.nn.blocks import compile_blocks, recompute
from safelight.runtime import dtype_of
from safelight.settings import Settings
from safelight.training.data_record import examine_data, require_same_data
from safelight.training.objective import Group, Objective, ProgressCallback, RunContext
from safelight.training.parallel import Processes
from safelight.training.plot import plot
from safelight.training.recipe import Loop, Recipe
from safelight.training.run import Run
from safelight.training.state import Ema, State

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run is after an update, and the metrics of that update by name."""

    update: int
    updates: int
    metrics: Mapping[str, float]
    pictures_a_second: float


def train(
    run: Run,
    cache: Path,
    progress: ProgressCallback,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = Processes(),  # noqa: B008
) -> Iterator[Progress]:
    """Train a run to its end, or until ``stop`` is true in a process, and save it.

    The first of ``processes`` must have claimed the run. Yields before the first update and after
    each. Raises SafelightError if the loss is no longer finite.
    """
    recipe = run.recipe
    processes.share(recipe.loop.batch, recipe.loop.accumulate)

    def prepared(what: str, done: int, total: int) -> None:
        progress(what, done, total)
        if stop():  # nothing is trained yet, so there is nothing to save
            raise KeyboardInterrupt

    training, validation, records = examine_data(run, prepared)
    context = _context(recipe, cache, processes)
    objective, state = _build(recipe, context)
    with processes.in_turn():
        objective.prepare([training, validation], prepared)
    records["parents"] = objective.parents
    require_same_data(run, records)
    update, recent = state.load(run.checkpoints[-1]) if run.checkpoints else (0, {})
    if processes.first:
        run.begin(records, processes.world)
        run.rewind(update)
    order = Order(len(training), recipe.seed, processes.rank, processes.world)
    batches = _batches(objective, training, order, recipe.loop, update)
    watch = recipe.watch
    logger.info(
        "training %s on %s, %s, from update %d", run.folder, context.device, context.dtype, update
    )
    yield Progress(update, recipe.loop.updates, {}, 0.0)
    began = time.perf_counter()
    while update < recipe.loop.updates and not processes.any(stop()):
        rate = recipe.rate.at(update, recipe.loop.updates)
        metrics = _update(
            recipe.loop, context, processes, objective, state, next(batches), rate, update
        )
        update += 1
        _require_finite(metrics, update, run)
        for name, value in metrics.items():
            recent.setdefault(name, []).append(value)
        last = update == recipe.loop.updates
        speed = recipe.loop.batch / (time.perf_counter() - began)
        if _due(update, watch.write, last):
            means = {name: fmean(values) for name, values in recent.items()}
            recent.clear()
            if processes.first:
                logger.info("update %d: %s", update, means)
                run.log({"update": update, **means, "rate": rate, "pictures_a_second": speed})
        if processes.first and _due(update, watch.check, last):
            _validate(run, objective, state, validation, update)
        if processes.first and _due(update, watch.sheet, last):
            _sample_sheet(run, objective, state, validation, update)
        if processes.first and _due(update, watch.save, last):
            _save(run, objective, state, training, update, recent)
        began = time.perf_counter()
        yield Progress(update, recipe.loop.updates, metrics, speed)
    if processes.first and update < recipe.loop.updates:
        _save(run, objective, state, training, update, recent)


def _context(recipe: Recipe, cache: Path, processes: Processes) -> RunContext:
    device = processes.device(recipe.loop.device)
    dtype = dtype_of(recipe.loop.precision, device)
    return RunContext(recipe.seed, cache, device, dtype, processes.mean, processes.total)


def _build(recipe: Recipe, context: RunContext) -> tuple[Objective, State]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        objective = recipe.objective.build(context)
    for part in objective.parts.values():
        part.to(context.device)
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.loop.recompute:
            recompute(part)
        if recipe.loop.compile:
            compile_blocks(part)
    optimisers = {
        group.name: (group.optimiser or recipe.optimiser).build(group.parameters)
        for group in objective.groups
    }
    ema = {group.name: Ema(group.parameters, recipe.loop.ema) for group in objective.groups}
    return objective, State(objective.parts, objective.groups, optimisers, ema)


def _batches(
    objective: Objective, dataset: Dataset, order: Order, loop: Loop, update: int
) -> Iterator[list[Any]]:
    """This process's micro-batches of each update; a thread prepares those of the next one."""
    accumulate = loop.accumulate

    def make(positions: Sequence[int], indices: Sequence[int]) -> list[Any]:
        return [
            objective.batch(dataset, positions[i::accumulate], indices[i::accumulate])
            for i in range(accumulate)
        ]

    places = order.batches(loop.batch, update * loop.batch)
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        upcoming = pool.submit(make, *next(places))
        while True:
            ready = upcoming.result()
            upcoming = pool.submit(make, *next(places))
            yield ready


def _update(
    loop: Loop,
    context: RunContext,
    processes: Processes,
    objective: Objective,
    state: State,
    batches: Sequence[Any],
    rate: float,
    update: int,
) -> dict[str, float]:
    """Update every group that has started; returns metrics, averaged over the whole batch."""
    metrics: dict[str, float] = {}
    for group in (group for group in objective.groups if update >= group.start):
        optimiser = state.optimisers[group.name]
        values: dict[str, list[Tensor]] = {}
        with _only(group, objective.groups):
            for batch in batches:
                mixed = context.dtype != torch.float32
                with torch.autocast(context.device.type, context.dtype, enabled=mixed):
                    loss = objective.loss(group.name, batch)
                (loss.total / len(batches)).backward()  # type: ignore[no-untyped-call]
                for name, value in {**loss.metrics, "loss": loss.total}.items():
                    values.setdefault(f"{group.name}/{name}", []).append(value.detach())
        processes.average(list(group.parameters.values()))
        norm = nn.utils.clip_grad_norm_(group.parameters.values(), loop.clip or float("inf"))
        for options in optimiser.param_groups:
            options["lr"] = rate * group.rate
        optimiser.step()
        optimiser.zero_grad()
        state.ema[group.name].update(update)
        metrics |= {name: fmean(map(float, several)) for name, several in values.items()}
        metrics[f"{group.name}/gradient"] = float(norm)
    objective.after_update(update)
    return processes.means(metrics)


@contextmanager
def _only(group: Group, groups: Sequence[Group]) -> Iterator[None]:
    """Within the block only this group's parameters have gradients computed."""
    others = [p for other in groups if other is not group for p in other.parameters.values()]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)


def _due(update: int, every: int, last: bool) -> bool:
    return last or (every > 0 and update % every == 0)


def _require_finite(metrics: Mapping[str, float], update: int, run: Run) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise SafelightError(
                f"{name} is {value} at update {update}; "
                f"the last checkpoint in {str(run.folder)!r} is kept. "
                'Lower rate.peak, or set loop.precision = "fp32".'
            )


@contextmanager
def _averaged_weights(state: State) -> Iterator[None]:
    """Within the block the weights are their running means, without gradients or compiling."""
    with ExitStack() as stack:
        for ema in state.ema.values():
            if ema.decay:
                stack.enter_context(ema.swapped())
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _validate(run: Run, objective: Objective, state: State, data: Dataset, update: int) -> None:
    """Log the mean of each metric over pictures spread evenly over the validation data."""
    count = min(run.recipe.watch.pictures, len(data))
    places = [i * len(data) // count for i in range(count)]
    metrics: dict[str, list[Tensor]] = {}
    with _averaged_weights(state):
        for i in range(0, count, 16):
            part = places[i : i + 16]
            batch = objective.batch(data, range(i, i + len(part)), part)
            for name, values in objective.validate(batch).items():
                metrics.setdefault(name, []).append(values.float().cpu())
    means = {f"check/{name}": float(torch.cat(values).mean()) for name, values in metrics.items()}
    run.log({"update": update, **means, "pictures": count})


def _sample_sheet(run: Run, objective: Objective, state: State, data: Dataset, update: int) -> None:
    with _averaged_weights(state):
        page = objective.sheet(data)
    with writing(run.folder / "samples" / f"{update:07}.png") as aside:
        page.save(aside, format="PNG")
    plot(run.metrics(), run.folder / "metrics.png")


def _save(
    run: Run,
    objective: Objective,
    state: State,
    training: Dataset,
    update: int,
    recent: Mapping[str, list[float]],
) -> None:
    state.save(run.folder / "checkpoints" / f"{update:07}", update, recent)
    with _averaged_weights(state):
        size = run.recipe.framing.size
        records = run.recall("data") or {}
        starts = (run.recall("origin") or {"starts": []})["starts"]
        card = Card(
            name=run.recipe.title or run.folder.name,
            size=(size, size),
            settings=Settings(),
            licence=run.recipe.licence or "see the licences of the training data",
            data=(records["data"],) if records else (),
            origin={
                "updates": update,
                "batch": run.recipe.loop.batch,
                **(starts[-1] if starts else {}),
            },
        )
        write_model(objective.model(card, training), run.folder / "model")
    run.tidy()
