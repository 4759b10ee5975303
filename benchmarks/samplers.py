"""Compare a step of each sampler with the scheduler of diffusers, without a model.

    python benchmarks/samplers.py [--rounds N] [--write]

The denoiser answers zeros at once, so what is measured is the sampler alone, over 20 steps of
Stable Diffusion's table. LMS has no peer here: diffusers wants scipy for it. A step may make
several passes; beside diffusers, whose step is always one pass, the time of one pass counts.
Stochastic samplers draw on the CPU, one stream a sample; Brownian ones follow one path whatever the
number of steps, which diffusers' scheduler of that name does not: its draws are fresh. One thread,
in processor time, both in turn. ``--write`` keeps the figures for docs/samplers.md.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timing import interleaved, machine

from safelight.config import kind_of
from safelight.diffusion.noise import BrownianNoise, SeededNoise
from safelight.diffusion.schedule import ScaledLinear
from safelight.diffusion.spacing.even import Leading
from safelight.settings import SAMPLER
from safelight.types.diffusion import Estimate, NoiseLevel
from safelight.types.tensors import Latents

FIGURES = Path(__file__).parents[1] / "docs" / "samplers_speed.json"
STEPS, SHAPE, LIMIT = 20, (4, 4, 64, 64), 0.013
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PEERS: dict[str, Callable[[Any], Any]] = {  # given diffusers
    "ddim": lambda d: d.DDIMScheduler(**TABLE),
    "ddpm": lambda d: d.DDPMScheduler(**TABLE),
    "deis": lambda d: d.DEISMultistepScheduler(**TABLE),
    "dpm2": lambda d: d.KDPM2DiscreteScheduler(**TABLE),
    "dpm2-ancestral": lambda d: d.KDPM2AncestralDiscreteScheduler(**TABLE),
    "dpmpp2m": lambda d: d.DPMSolverMultistepScheduler(**TABLE),
    "dpmpp2m-sde": lambda d: d.DPMSolverMultistepScheduler(
        **TABLE, algorithm_type="sde-dpmsolver++"
    ),
    "dpmpp2s": lambda d: d.DPMSolverSinglestepScheduler(**TABLE),
    "dpmpp3m": lambda d: d.DPMSolverMultistepScheduler(**TABLE, solver_order=3),
    "euler": lambda d: d.EulerDiscreteScheduler(**TABLE),
    "euler-ancestral": lambda d: d.EulerAncestralDiscreteScheduler(**TABLE),
    "heun": lambda d: d.HeunDiscreteScheduler(**TABLE),
    "lcm": lambda d: d.LCMScheduler(**TABLE),
    "pndm": lambda d: d.PNDMScheduler(**TABLE, skip_prk_steps=True),
    "sa-solver": lambda d: d.SASolverScheduler(**TABLE),
    "single": lambda d: d.DPMSolverSinglestepScheduler(**TABLE, solver_order=3),
    "tcd": lambda d: d.TCDScheduler(**TABLE),
    "unipc": lambda d: d.UniPCMultistepScheduler(**TABLE),
}


class Null:
    """A model that costs nothing and counts its passes."""

    def __init__(self) -> None:
        self.passes, self.answer = 0, torch.zeros(SHAPE)

    def __call__(self, noisy: Latents, level: NoiseLevel) -> Estimate:
        self.passes += 1
        return Estimate(self.answer)


def ours(kind: str, null: Null, fresh: bool = False) -> Callable[[], object]:
    """A run of a sampler, on noise as ``generate`` draws it or on ``fresh`` draws."""
    sampler, schedule = SAMPLER.read(kind), ScaledLinear()
    times, start = (
        Leading()(STEPS, schedule),
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)),
    )

    def run() -> object:
        null.passes = 0
        source = (
            BrownianNoise(range(4))
            if sampler.info.brownian and not fresh
            else SeededNoise(range(4))
        )
        return [step.index for step in sampler(null, start, times, schedule, source)]

    return run


def theirs(kind: str, null: Null) -> Callable[[], object]:
    """The same with diffusers, its sigmas made beforehand."""
    import diffusers

    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))

    def run() -> object:
        made = PEERS[kind](diffusers)
        made.set_timesteps(STEPS)
        noisy, null.passes = start, len(made.timesteps)
        for t in made.timesteps:
            made.scale_model_input(noisy, t)
            noisy = made.step(null.answer, t, noisy).prev_sample
        return noisy

    return run


def rows(rounds: int) -> Iterator[tuple[str, float, float, float | None]]:
    """Each kind with the seconds of a step, and of a pass here and there."""
    for kind in map(kind_of, SAMPLER.all()):
        here, there = Null(), Null()
        candidates = {kind: ours(kind, here)}
        if kind.endswith("sde") and kind in PEERS:
            candidates[f"{kind}, fresh draws"] = ours(kind, here, fresh=True)
        peer = {"theirs": theirs(kind, there)} if kind in PEERS else {}
        took = interleaved(candidates | peer, rounds, clock=time.process_time)
        beside = took["theirs"] / there.passes if peer else None
        for name in candidates:
            yield name, took[name] / STEPS, took[name] / here.passes, beside


def main() -> None:
    """Print a table; the exit code is 1 if a sampler is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ["DIFFUSERS_VERBOSITY"] = "error"
    print(machine())
    slow, figures = [], {}
    with torch.inference_mode():
        for kind, step, here, there in rows(given.rounds):
            beside = (
                f"{1000 * here:8.2f} ms a pass beside {1000 * there:8.2f}: {here / there:5.2f}"
                if there
                else ""
            )
            print(f"{kind:24} {1000 * step:8.2f} ms a step {beside}", flush=True)
            slow += [kind] if step > LIMIT else []
            figures[kind] = [1000 * step, here / there if there else None]
    print(f"above {1000 * LIMIT:.0f} ms a step: {', '.join(slow) or 'none'}")
    if given.write:
        FIGURES.write_text(
            json.dumps({"machine": machine(), "rounds": given.rounds, "kinds": figures}, indent=1)
            + "\n"
        )
    sys.exit(bool(slow))


if __name__ == "__main__":
    main()
