"""The loop. It reads top to bottom: prepare, then update, write, look and save until done."""

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

from safelight.checkpoints.native import write_model
from safelight.data.dataset import Dataset
from safelight.data.examples import Order
from safelight.errors import SafelightError
from safelight.files import writing
from safelight.model import Card
from safelight.nn.blocks import compile_blocks, recompute
from safelight.runtime import dtype_of
from safelight.settings import Settings
from safelight.training.data_record import examined, require_same
from safelight.training.objective import Group, Objective, Report, Setting
from safelight.training.parallel import Processes
from safelight.training.plot import plot
from safelight.training.recipe import Loop, Recipe
from safelight.training.run import Run
from safelight.training.state import Ema, State


@dataclass(frozen=True)
class Progress:
    """What a run tells after every update: how far it is, and the newest measures by name."""

    update: int
    updates: int
    measured: Mapping[str, float]
    pictures_a_second: float


def train(
    run: Run,
    cache: Path,
    report: Report,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = Processes(),  # noqa: B008
) -> Iterator[Progress]:
    """Train a run, claimed by the first of ``processes``, to its end or until ``stop`` of one says so; it saves then.

    Yields where it begins, then after each update. Raises SafelightError if the loss is no longer a number.
    """
    recipe = run.recipe
    processes.share(recipe.loop.batch, recipe.loop.accumulate)

    def told(what: str, done: int, total: int) -> None:
        report(what, done, total)
        if stop():  # nothing is trained yet, so there is nothing to save
            raise KeyboardInterrupt

    training, checks, records = examined(run, told)
    setting = _setting(recipe, cache, processes)
    objective, state = _build(recipe, setting)
    with processes.in_turn():
        objective.prepare([training, checks], told)
    records["stands on"] = objective.stands_on
    require_same(run, records)
    update, recent = state.load(run.checkpoints[-1]) if run.checkpoints else (0, {})
    if processes.first:
        run.begin(records, processes.world)
        run.rewind(update)
    order = Order(len(training), recipe.seed, processes.rank, processes.world)
    feed = _prefetched(objective, training, order, recipe.loop, update)
    watch = recipe.watch
    yield Progress(update, recipe.loop.updates, {}, 0.0)
    began = time.perf_counter()
    while update < recipe.loop.updates and not processes.any(stop()):
        rate = recipe.rate.at(update, recipe.loop.updates)
        measured = _update(
            recipe.loop, setting, processes, objective, state, next(feed), rate, update
        )
        update += 1
        _alive(measured, update, run)
        for name, value in measured.items():
            recent.setdefault(name, []).append(value)
        last = update == recipe.loop.updates
        took = time.perf_counter() - began
        if _due(update, watch.write, last):
            means = {name: fmean(values) for name, values in recent.items()}
            recent.clear()
            if processes.first:
                run.measured(
                    {
                        "update": update,
                        **means,
                        "rate": rate,
                        "pictures_a_second": recipe.loop.batch / took,
                    }
                )
        if processes.first and _due(update, watch.check, last):
            _check(run, objective, state, checks, update)
        if processes.first and _due(update, watch.sheet, last):
            _draw(run, objective, state, checks, update)
        if processes.first and _due(update, watch.save, last):
            _save(run, objective, state, training, update, recent)
        began = time.perf_counter()
        yield Progress(update, recipe.loop.updates, measured, recipe.loop.batch / took)
    if processes.first and update < recipe.loop.updates:
        _save(run, objective, state, training, update, recent)


def _setting(recipe: Recipe, cache: Path, processes: Processes) -> Setting:
    device = processes.device(recipe.loop.device)
    dtype = dtype_of(recipe.loop.precision, device)
    return Setting(recipe.seed, cache, device, dtype, processes.mean, processes.total)


def _build(recipe: Recipe, setting: Setting) -> tuple[Objective, State]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        objective = recipe.objective.build(setting)
    for part in objective.parts.values():
        part.to(setting.device)
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.loop.recompute:
            recompute(part)
        if recipe.loop.compile:
            compile_blocks(part)
    optimisers = {
        one.name: (one.optimiser or recipe.optimiser).build(one.parameters)
        for one in objective.groups
    }
    ema = {group.name: Ema(group.parameters, recipe.loop.ema) for group in objective.groups}
    return objective, State(objective.parts, objective.groups, optimisers, ema)


def _prefetched(
    objective: Objective, dataset: Dataset, order: Order, loop: Loop, update: int
) -> Iterator[list[Any]]:
    """This process's micro-batches of each update, the next update's made in a thread while this one's are used."""
    accumulate = loop.accumulate

    def make(positions: Sequence[int], indices: Sequence[int]) -> list[Any]:
        return [
            objective.batch(dataset, positions[i::accumulate], indices[i::accumulate])
            for i in range(accumulate)
        ]

    places = order.batches(loop.batch, update * loop.batch)
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        coming = pool.submit(make, *next(places))
        while True:
            ready = coming.result()
            coming = pool.submit(make, *next(places))
            yield ready


def _update(
    loop: Loop,
    setting: Setting,
    processes: Processes,
    objective: Objective,
    state: State,
    batches: Sequence[Any],
    rate: float,
    update: int,
) -> dict[str, float]:
    """One update of every group that has begun; what was measured is the mean over micro-batches and processes."""
    measured: dict[str, float] = {}
    for group in (one for one in objective.groups if update >= one.begins):
        optimiser = state.optimisers[group.name]
        found: dict[str, list[Tensor]] = {}
        with _only(group, objective.groups):
            for batch in batches:
                with torch.autocast(
                    setting.device.type, setting.dtype, enabled=setting.dtype != torch.float32
                ):
                    loss = objective.loss(group.name, batch)
                (loss.total / len(batches)).backward()  # type: ignore[no-untyped-call]
                for name, value in {**loss.measured, "loss": loss.total}.items():
                    found.setdefault(f"{group.name}/{name}", []).append(value.detach())
        processes.average(list(group.parameters.values()))
        norm = nn.utils.clip_grad_norm_(group.parameters.values(), loop.clip or float("inf"))
        for options in optimiser.param_groups:
            options["lr"] = rate * group.rate
        optimiser.step()
        optimiser.zero_grad()
        state.ema[group.name].update(update)
        measured |= {name: fmean(map(float, values)) for name, values in found.items()}
        measured[f"{group.name}/gradient"] = float(norm)
    objective.after_update(update)
    return processes.means(measured)


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
        if not math.isfinite(value):
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
        stack.enter_context(
            torch.compiler.set_stance("force_eager")
        )  # nothing is compiled for what is rarely called
        yield


def _check(run: Run, objective: Objective, state: State, checks: Dataset, update: int) -> None:
    count = min(run.recipe.watch.pictures, len(checks))
    places = [i * len(checks) // count for i in range(count)]
    found: dict[str, list[Tensor]] = {}
    with _as_judged(state):
        for i in range(0, count, 16):
            batch = objective.batch(
                checks, range(i, i + len(places[i : i + 16])), places[i : i + 16]
            )
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


def _save(
    run: Run,
    objective: Objective,
    state: State,
    training: Dataset,
    update: int,
    recent: Mapping[str, list[float]],
) -> None:
    state.save(run.folder / "checkpoints" / f"{update:07}", update, recent)
    with _as_judged(state):
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
