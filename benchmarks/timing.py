"""How benchmarks measure: interleaved, the median of several, with the machine stated."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each candidate, run in turn ``rounds`` times after a warm-up.

    The ``warmup`` turns do not count.
    """
    took: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, run in candidates.items():
            began = clock()
            run()
            if turn >= warmup:
                took[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in took.items()}


def machine() -> str:
    """One line about where this was measured."""
    import torch

    features = [name for name in ("avx512_bf16", "amx_bf16") if name in _flags()]
    return (
        f"torch {torch.__version__}, python {platform.python_version()}, {os.cpu_count()} "
        "processors, "
        f"{torch.get_num_threads()} threads, {' '.join(features) or 'no bf16 instructions'}"
    )


def _flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""
