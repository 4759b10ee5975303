"""What a step of each sampler costs beside diffusers' scheduler of the same name: no model, 4x64x64, a batch of 4.

    python benchmarks/samplers.py [--rounds N]

The denoiser answers zeros at once, so what is measured is the sampler alone, over 20 steps of Stable Diffusion's table.
LMS has no peer here: diffusers wants scipy for it.
A sampler that makes several passes a step is counted by the step. Stochastic ones draw on the CPU, one stream a sample.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timing import interleaved, machine

from safelight.config import kind_of
from safelight.diffusion.noise import BrownianNoise, SeededNoise
from safelight.diffusion.schedule import ScaledLinear
from safelight.diffusion.spacing import Leading
from safelight.settings import SAMPLER
from safelight.types import Estimate, Latents, NoiseLevel

STEPS, SHAPE, LIMIT = 20, (4, 4, 64, 64), 0.013
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PEERS: dict[str, Callable[[Any], Any]] = {  # given diffusers
    "ddim": lambda d: d.DDIMScheduler(**TABLE),
    "ddpm": lambda d: d.DDPMScheduler(**TABLE),
    "deis": lambda d: d.DEISMultistepScheduler(**TABLE),
    "dpm2": lambda d: d.KDPM2DiscreteScheduler(**TABLE),
    "dpm2-ancestral": lambda d: d.KDPM2AncestralDiscreteScheduler(**TABLE),
    "dpmpp2m": lambda d: d.DPMSolverMultistepScheduler(**TABLE),
    "dpmpp2m-sde": lambda d: d.DPMSolverMultistepScheduler(**TABLE, algorithm_type="sde-dpmsolver++"),
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


def null(noisy: Latents, level: NoiseLevel) -> Estimate:
    """A model that costs nothing."""
    return Estimate(torch.zeros_like(noisy))


def ours(kind: str) -> Callable[[], object]:
    """A whole run of a sampler."""
    sampler, schedule = SAMPLER.read(kind), ScaledLinear()
    times, start = Leading()(STEPS, schedule), torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))

    def run() -> object:
        source = BrownianNoise(range(4)) if sampler.about.brownian else SeededNoise(range(4))
        return [step.index for step in sampler(null, start, times, schedule, source)]

    return run


def theirs(kind: str) -> Callable[[], object]:
    """The same with diffusers, its sigmas made beforehand."""
    import diffusers

    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    answer = torch.zeros(SHAPE)

    def run() -> object:
        made = PEERS[kind](diffusers)
        made.set_timesteps(STEPS)
        noisy = start
        for t in made.timesteps:
            made.scale_model_input(noisy, t)
            noisy = made.step(answer, t, noisy).prev_sample
        return noisy

    return run


def rows(rounds: int) -> Iterator[tuple[str, float, float | None]]:
    """Each kind with the seconds of a step here and there."""
    for cls in SAMPLER.all():
        kind = kind_of(cls)
        both = {"ours": ours(kind)}
        if kind in PEERS:
            both["theirs"] = theirs(kind)
        took = interleaved(both, rounds)
        yield kind, took["ours"] / STEPS, took["theirs"] / STEPS if "theirs" in took else None


def main() -> None:
    """Print a table; the exit code is 1 if a sampler is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(machine())
    slow = []
    with torch.inference_mode():
        for kind, here, there in rows(rounds):
            beside = f"{1000 * there:8.2f} ms  {here / there:5.2f} of it" if there else ""
            print(f"{kind:16} {1000 * here:8.2f} ms a step {beside}", flush=True)
            slow += [kind] if here > LIMIT else []
    print(f"above {1000 * LIMIT:.0f} ms a step: {', '.join(slow) or 'none'}")
    sys.exit(bool(slow))


if __name__ == "__main__":
    main()
