"""Compare a step of a transformer with diffusers: same weights, two samples.

python benchmarks/transformer_step.py [--shape dit-xl] [--precisions bf16 fp32] [--rounds 5]
    [--threads 2] [--compile] [--depth 24] [--profile] [--cpu-time]

dit-xl: DiT-XL/2 at 256 tokens. sd35-medium: Stable Diffusion 3.5 medium at 512 × 512 pixels with
333 words. Outputs are checked equal first, and weights are shared where they can be, so that both
fit. ``--depth`` takes fewer blocks, ``--cpu-time`` counts the processor's time, which a busy
machine does not lengthen, with one thread. ``--compile``: also diffusers' bf16 compiled by torch,
whose compiling is not counted.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from timing import interleaved, machine
from torch import Tensor, nn

from safelight.denoisers.mmdit import config as mmdit_config
from safelight.denoisers.plain_dit import config as plain_dit_config
from safelight.layouts.dit import diffusers as diffusers_dit
from safelight.layouts.key_mapping import Layout
from safelight.layouts.mmdit import diffusers as diffusers_mmdit
from safelight.model import LatentDiffusion
from safelight.runtime import prepare
from safelight.types.networks import Condition, Tokens

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """A network at its public size: our configuration, the latents, and the number of tokens."""

    config: Any
    layout: Layout
    latents: tuple[int, ...]
    words: int = 0


SHAPES = {
    "dit-xl": Shape(
        plain_dit_config.Config(
            width=1152,
            depth=28,
            heads=16,
            classes=1000,
            variance="learned",
            embedders="inclusive",
            mlp_eps=1e-5,
        ),
        diffusers_dit.LAYOUTS[0],
        (2, 4, 32, 32),
    ),
    "sd35-medium": Shape(
        mmdit_config.Config(
            width=1536,
            depth=24,
            heads=24,
            text_width=4096,
            vector_width=2048,
            side=384,
            dual=tuple(range(13)),
        ),
        diffusers_mmdit.LAYOUTS[0],
        (2, 16, 64, 64),
        333,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="dit-xl")
    parser.add_argument("--precisions", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--depth", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine()}, diffusers {version('diffusers')}")
    shape = SHAPES[options.shape]
    if options.depth:
        dual = {"dual": shape.config.dual[: options.depth]} if shape.words else {}
        shape = replace(shape, config=replace(shape.config, depth=options.depth, **dual))
    (profile if options.profile else compare)(shape, options)


@torch.inference_mode()
def compare(shape: Shape, options: argparse.Namespace) -> None:
    ways: dict[str, Callable[[], Tensor]] = {}
    for precision in options.precisions:
        ours = lively(shape, precision)
        ways[f"ours {precision}"] = asked(shape, ours, precision)
        theirs = peer(shape, ours)
        ways[f"diffusers {precision}"] = asked_of_peer(shape, theirs, precision)
        if options.compile and precision == "bf16":
            compiled = peer(shape, ours)
            compiled.compile()
            ways["diffusers bf16 compiled"] = asked_of_peer(shape, compiled, precision)
    for precision in options.precisions:
        truth = ways[f"diffusers {precision}"]()
        difference = (ways[f"ours {precision}"]() - truth).float().norm() / truth.float().norm()
        print(f"{precision}: ours is {difference:.1e} from diffusers' in the mean square")
        assert difference < {"fp32": 1e-4, "bf16": 0.05}[precision]
    took = interleaved(
        ways, options.rounds, clock=time.process_time if options.cpu_time else time.perf_counter
    )
    for name, seconds in took.items():
        print(
            f"{name:32} {seconds:.3f} s, {seconds / took['ours ' + options.precisions[0]]:.2f} "
            "times ours"
        )


def lively(shape: Shape, precision: str) -> nn.Module:
    """Our network with small random weights instead of zeros, so that every layer counts."""
    with torch.device("meta"):
        network: nn.Module = shape.config.build().to(DTYPES[precision])
    network.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        tensor.normal_(0, 0.02, generator=draw)
        if "norm.weight" in name:
            tensor.add_(1)
    if not shape.words:  # whose positions diffusers makes itself
        network.positions.table.copy_(
            type(network.positions)(shape.config.side, shape.config.width).table
        )
    prepared = prepare(LatentDiffusion(denoiser=network), "cpu", precision).denoiser
    assert isinstance(prepared, nn.Module)
    return prepared


def peer(shape: Shape, ours: nn.Module) -> nn.Module:
    """diffusers' network with the same weights, most of which it shares."""
    from diffusers import DiTTransformer2DModel, SD3Transformer2DModel
    from diffusers.utils import logging

    logging.set_verbosity_error()
    assert shape.layout.describe is not None
    said = dict(shape.layout.describe(shape.config))
    said.pop("_class_name")
    kind = SD3Transformer2DModel if shape.words else DiTTransformer2DModel
    with torch.device("meta"):
        network: nn.Module = kind(**said)
    if not shape.words:  # its positions are in no file, and are made on the processor
        network.pos_embed.pos_embed = ours.positions.table.clone()
    network.load_state_dict(
        dict(shape.layout.table(shape.config).to_theirs(ours.state_dict())), assign=True
    )
    return network.eval().requires_grad_(False)


def asked(shape: Shape, network: nn.Module, precision: str) -> Callable[[], Tensor]:
    """Our step; the prompt is prepared before."""
    told = question(shape, precision)
    if shape.words:
        tokens = Tokens(told["words"], torch.ones(told["words"].shape[:2], dtype=torch.bool))
        given = network.prepare(Condition(tokens, vector=told["pooled"]))
    else:
        given = network.prepare(Condition(scalars={"label": told["labels"]}))
    return lambda: network(told["noisy"], told["time"], given)


def asked_of_peer(shape: Shape, network: nn.Module, precision: str) -> Callable[[], Tensor]:
    """Their step."""
    told = question(shape, precision)
    if shape.words:
        return lambda: network(
            told["noisy"], told["words"], told["pooled"], told["time"], return_dict=False
        )[0]
    return lambda: network(told["noisy"], told["time"], told["labels"], return_dict=False)[0]


def question(shape: Shape, precision: str) -> Mapping[str, Tensor]:
    """What both are asked."""
    draw, dtype = torch.Generator().manual_seed(1), DTYPES[precision]
    told = {
        "noisy": torch.randn(shape.latents, generator=draw).to(dtype),
        "time": torch.full((2,), 481.0),
    }
    if not shape.words:
        return told | {"labels": torch.tensor([207, 1000])}
    words = torch.randn(2, shape.words, shape.config.text_width, generator=draw).to(dtype)
    return told | {
        "words": words,
        "pooled": torch.randn(2, shape.config.vector_width, generator=draw).to(dtype),
    }


@torch.inference_mode()
def profile(shape: Shape, options: argparse.Namespace) -> None:
    step = asked(shape, lively(shape, options.precisions[0]), options.precisions[0])
    step()
    with torch.profiler.profile() as seen:
        step()
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


if __name__ == "__main__":
    main()
