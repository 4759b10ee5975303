"""Compare an update of the embedded denoiser with a plain fp32 loop.

python benchmarks/training_update.py [--batch 64] [--rounds 7]

Ours: bf16 compute on fp32 weights, fused AdamW. Plain: fp32, AdamW as written out by torch (no
fused or foreach kernels). Both take the shipped recipe's denoiser and text encoder at the same
weights, with the same data.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from timing import interleaved, machine

from safelight.config import read, read_toml
from safelight.diffusion.noise import sample_noise, sample_uniform
from safelight.diffusion.prediction import Flow
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import Linear
from safelight.model import module
from safelight.training.optimisers import Adamw
from safelight.training.recipe import Recipe
from safelight.types.networks import Prompt

RECIPE = Path(__file__).parent.parent / "recipes" / "stickers.toml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    config = vars(read(Recipe, read_toml(RECIPE)).objective)
    torch.manual_seed(0)
    denoiser, conditioner = config["denoiser"].build(), config["conditioner"].build()
    prompts = [Prompt(f"picture {i} of a red fox, flat emoji") for i in range(options.batch)]
    conditioner.fit(prompts)
    with torch.no_grad():  # off the start, where the answer is zero whatever the precision
        for p in [*module(denoiser).parameters()]:
            p.add_(0.02 * torch.randn_like(p))

    update = {
        "ours": _update(copy.deepcopy(denoiser), copy.deepcopy(conditioner), prompts, ours=True),
        "plain fp32": _update(denoiser, conditioner, prompts, ours=False),
    }
    first = {name: run() for name, run in update.items()}
    apart = abs(first["ours"] - first["plain fp32"]) / first["plain fp32"]
    assert apart < 0.02, f"the two losses differ by {apart:.1%}"
    took = interleaved(update, options.rounds)
    parameters = sum(
        p.numel() for part in (denoiser, conditioner) for p in module(part).parameters()
    )
    print(machine())
    print(
        f"{parameters / 1e6:.1f}M parameters, batch {options.batch}, first losses {apart:.2%} apart"
    )
    for name, seconds in took.items():
        print(f"{name:12} {seconds:.3f} s an update, {options.batch / seconds:.1f} samples/s")
    print(f"ratio        {took['plain fp32'] / took['ours']:.2f}")


def _update(
    denoiser: object, conditioner: object, prompts: list[Prompt], ours: bool
) -> Callable[[], float]:
    parts = {"denoiser": module(denoiser), "conditioner": module(conditioner)}
    parameters = {
        f"{name}.{key}": p for name, part in parts.items() for key, p in part.named_parameters()
    }
    if ours:
        optimiser = Adamw().build(parameters)
    else:
        optimiser = torch.optim.AdamW(parameters.values(), lr=1e-3, foreach=False, fused=False)
    process = Process(Linear(), Flow())
    places = list(range(len(prompts)))
    clean = sample_noise(1, places, (len(prompts), 4, 16, 16))
    noise = sample_noise(0, places, (len(prompts), 4, 16, 16))
    t = sample_uniform(0, places).float()

    def update() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=ours):
            condition = parts["conditioner"](prompts)
            loss = process.loss(parts["denoiser"], clean, noise, t, condition).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return update


if __name__ == "__main__":
    main()
