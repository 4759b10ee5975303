"""Compare updates of autoencoder and discriminator with a plain fp32 loop.

python benchmarks/first_stage_step.py [--batch 16] [--size 64] [--rounds 5] [--threads 2]

Ours: bf16 compute on fp32 weights, channels-last, fused AdamW, one backward through each network.
Plain: fp32, the layout torch begins with, AdamW as written out by torch, the adaptive weight from
two gradients of the whole graph, as public training code does it. Both take the networks of
``recipes/emoji-kl-f8.toml``, the perceptual distance, the patch discriminator, the same weights and
the same pictures. It ends with what the processor gives at most: bf16 beside fp32 convolutions of
the same sizes.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from timing import interleaved, machine
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.config import read, read_toml
from safelight.diffusion.noise import sample_noise
from safelight.model import module
from safelight.nn.perceptual import perceptual
from safelight.training.adversarial import Adversarial
from safelight.training.objective import RunContext
from safelight.training.objectives.reconstruction import Perceptual, PictureBatch, Reconstruction
from safelight.training.optimisers import Adamw
from safelight.training.recipe import Recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "emoji-kl-f8.toml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    config = replace(
        read(Recipe, read_toml(RECIPE)).objective,
        perceptual=Perceptual(),
        adversarial=Adversarial(),
    )
    setting = RunContext(0, Path(tempfile.gettempdir()), torch.device("cpu"), torch.bfloat16)
    objective = Reconstruction(config, setting)
    assert objective.adversary is not None
    objective.adversary.begun.fill_(True)  # from the first update on, so that it is measured
    shown = PictureBatch(
        sample_noise(
            1, range(options.batch), (options.batch, 3, options.size, options.size)
        ).tanh(),
        (),
    )
    shown.positions = range(options.batch)
    update = {
        "plain fp32": _plain(copy.deepcopy(objective), shown),
        "ours": _ours(objective, shown),
    }
    first = {name: run() for name, run in update.items()}
    for name, theirs in first["plain fp32"].items():
        apart = abs(first["ours"][name] - theirs) / abs(theirs)
        print(f"{name:13} ours {first['ours'][name]:.4f}, plain {theirs:.4f}")
        assert apart < 0.05 or name == "adaptive", name
    took = interleaved(update, options.rounds)
    print(machine())
    for name, seconds in took.items():
        print(f"{name:12} {seconds:.3f} s an update, {options.batch / seconds:.1f} pictures/s")
    print(f"ratio        {took['plain fp32'] / took['ours']:.2f}")
    products = interleaved(
        {str(dtype): _product(dtype, options.batch) for dtype in (torch.float32, torch.bfloat16)}
    )
    print(
        f"bf16 convolutions are {products['torch.float32'] / products['torch.bfloat16']:.2f} "
        "times as fast as fp32"
    )


def _ours(objective: Reconstruction, shown: PictureBatch) -> Callable[[], Mapping[str, float]]:
    for part in objective.parts.values():
        part.to(memory_format=torch.channels_last)
    optimisers = {group.name: Adamw().build(group.parameters) for group in objective.groups}

    def update() -> Mapping[str, float]:
        measured: dict[str, float] = {}
        for group in objective.groups:
            for other in objective.groups:
                for p in other.parameters.values():
                    p.requires_grad_(other is group)
            with torch.autocast("cpu", torch.bfloat16):
                loss = objective.loss(group.name, shown)
            loss.total.backward()
            nn.utils.clip_grad_norm_(group.parameters.values(), 1.0)
            optimisers[group.name].step()
            optimisers[group.name].zero_grad()
            measured |= {name: value.item() for name, value in loss.metrics.items()} | {
                group.name: loss.total.item()
            }
        return {name: measured[name] for name in ("l1", "adaptive", "discriminator")}

    return update


def _plain(objective: Reconstruction, shown: PictureBatch) -> Callable[[], Mapping[str, float]]:
    assert objective.adversary is not None
    assert objective.features is not None
    autoencoder, features, judge = (
        objective.autoencoder,
        objective.features,
        module(objective.adversary.network),
    )
    optimisers = [
        torch.optim.AdamW(list(part.parameters()), lr=1e-3, foreach=False, fused=False)
        for part in (module(autoencoder), judge)
    ]
    images, last = shown.images, autoencoder.last_layer
    assert last is not None

    def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        for item in optimisers:
            item.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
        optimiser.step()

    def update() -> Mapping[str, float]:
        encoding = autoencoder.encode(images)
        noise = sample_noise(0, shown.positions, tuple(encoding.mean.shape))
        again = autoencoder.decode(encoding.sample(noise))
        l1 = (again - images).abs().mean()
        error = l1 + perceptual(features, again, images).mean()
        judge.eval()
        against = -judge(again).mean()
        norms = [
            torch.autograd.grad(item, last, retain_graph=True)[0].norm()
            for item in (error, against)
        ]
        adaptive = (norms[0] / (norms[1] + 1e-6)).clamp(max=1e4).detach()
        step(
            optimisers[0],
            error
            + 1e-6 * autoencoder.regularisers(encoding)["kl"].mean()
            + 0.5 * adaptive * against,
        )
        judge.train()
        real, fake = judge(images), judge(again.detach())
        gan_loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        step(optimisers[1], gan_loss)
        return {"l1": l1.item(), "adaptive": adaptive.item(), "discriminator": gan_loss.item()}

    return update


def _product(dtype: torch.dtype, batch: int) -> Callable[[], object]:
    x = (
        torch.randn(batch, 128, 32, 32)
        .to(dtype, memory_format=torch.channels_last)
        .requires_grad_()
    )
    weight = (
        torch.randn(128, 128, 3, 3).to(dtype, memory_format=torch.channels_last).requires_grad_()
    )

    def run() -> object:
        y = F.conv2d(x, weight, padding=1)
        return torch.autograd.grad(y, (x, weight), torch.ones_like(y))

    return run


if __name__ == "__main__":
    main()
