"""Measure what guidance costs: one batch against two passes, and the rules themselves.

python benchmarks/guidance.py [--batch 4] [--rounds 9] [--device cpu]

The network is the embedded model's denoiser. One pass of twice the batch should take no more than
two passes and 3 %. The rules are timed with a null denoiser on 4×64×64 latents: what is left is
guidance itself.
"""

import argparse
from collections.abc import Callable

import torch
from timing import interleaved, machine

import safelight
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guided import guided
from safelight.settings import GUIDANCE
from safelight.types.diffusion import Denoise, Guidance
from safelight.types.networks import Condition, Prompt
from safelight.types.tensors import Latents


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(machine(), options.device)
    with torch.inference_mode():
        passes(options.batch, options.rounds, options.device)
        rules(options.batch, options.rounds, options.device)


def passes(batch: int, rounds: int, device: str) -> None:
    """Seconds of a guided evaluation of the embedded model, in one batch and in two."""
    model = safelight.load("stickers", device=device, precision="fp32").complete()
    prompts = [Prompt(f"red heart, flat emoji {i}") for i in range(batch)]
    yes, no = (
        model.denoiser.prepare(item)
        for item in (model.conditioner(prompts), model.conditioner.null_condition(prompts))
    )
    latents = torch.randn(model.latent_shape(batch, model.card.size)).to(device)
    level = model.process.schedule(torch.tensor(0.5, dtype=torch.float64))

    def waist(one_batch: bool) -> Denoise:
        networks = {"main": model.denoiser}
        return guided(
            model.process, networks, ClassifierFree(4.0), yes, lambda only: no, one_batch=one_batch
        )

    together, apart = waist(True), waist(False)
    error = (together(latents, level).clean - apart(latents, level).clean).abs().max()
    took = interleaved(
        {
            "one batch of two": lambda: float(together(latents, level).clean.sum()),
            "two passes": lambda: float(apart(latents, level).clean.sum()),
        },
        rounds,
        warmup=2,
    )
    for name, seconds in took.items():
        print(f"{name:20} {1000 * seconds:8.2f} ms  (batch {batch}, {tuple(latents.shape[1:])})")
    print(
        f"{'ratio':20} {took['one batch of two'] / took['two passes']:8.3f}     (answers within "
        f"{float(error):.1e})"
    )


def rules(batch: int, rounds: int, device: str) -> None:
    """Milliseconds of each rule where the network costs nothing."""
    latents, away = torch.randn(2, batch, 4, 64, 64).to(device)
    process = safelight.load("stickers", device=device).complete().process
    level = process.schedule(torch.tensor(0.5, dtype=torch.float64))
    condition = Condition(vector=torch.zeros(batch, 1, device=device))

    def evaluation(rule: Guidance) -> Callable[[], float]:
        waist = guided(
            process,
            {"main": Null(away), "weak": Null(away)},
            rule,
            condition,
            lambda only: condition,
        )
        return lambda: float(waist(latents, level).clean[0, 0, 0, 0])

    kinds = [kind for kind in GUIDANCE.kinds() if kind != "classifier"]
    took = interleaved({kind: evaluation(GUIDANCE.read(kind)) for kind in kinds}, rounds, warmup=2)
    for kind, seconds in took.items():
        print(f"{kind:20} {1000 * seconds:8.2f} ms  (batch {batch}, 4×64×64, null network)")


class Null:
    """A network that costs nothing."""

    def __init__(self, answer: Latents) -> None:
        self.answer = answer

    def __call__(self, noisy: Latents, time: torch.Tensor, condition: Condition) -> Latents:
        return self.answer.repeat(len(noisy) // len(self.answer), 1, 1, 1)

    def variant(self, skip: object, alone: object) -> "Null":
        return self


if __name__ == "__main__":
    main()
