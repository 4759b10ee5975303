"""Compare a step of a U-Net with diffusers: same weights, two samples, two prompts.

python benchmarks/step.py [--shape sd1] [--size 64] [--rounds 5] [--threads 2] [--compile]
    [--profile]

Against diffusers' fp32 default, its bf16 channels-last eager mode and, with ``--compile``, that
mode frozen and compiled by torch (the minute of compiling is not counted). Outputs are checked
equal first. ``--profile``: where our bf16 step spends its time, instead.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import version

import torch
from timing import interleaved, machine
from torch import Tensor, nn

from safelight.denoisers.unet.config import Config, Level
from safelight.denoisers.unet.network import UNet
from safelight.layouts.unet.diffusers import LAYOUTS
from safelight.model import LatentDiffusion
from safelight.nn.embeddings import sinusoidal
from safelight.nn.kernels.compiled import library
from safelight.runtime import prepare
from safelight.types.networks import Condition, Tokens

SHAPES = {
    "sd1": Config(
        levels=(Level(320), Level(640), Level(1280), Level(1280, 0)), text_width=768, linear=False
    ),
    "sdxl": Config(
        levels=(Level(320, 0, 5), Level(640, 2, 10), Level(1280, 10, 20)),
        middle=10,
        text_width=2048,
        vector_width=2816,
    ),
    "tiny": Config(levels=(Level(64), Level(128), Level(128, 0)), text_width=64, linear=False),
}
WORDS = 77
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="sd1")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{machine()}, diffusers {version('diffusers')}, kernels "
        f"{'compiled' if library() else 'not compiled'}"
    )
    (profile if options.profile else compare)(options)


def lively(config: Config) -> UNet:
    """A network in which everything counts: what is zero at first is drawn too."""
    torch.manual_seed(0)
    network = config.build()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return network


class Asked:
    """What both are asked: the latents, the time, and the condition in our words and theirs."""

    def __init__(self, config: Config, size: int) -> None:
        draw = torch.Generator().manual_seed(1)
        self.noisy = torch.randn(2, config.channels, size, size, generator=draw)
        self.time = torch.full((2,), 481.0)
        self.words = torch.randn(2, WORDS, config.text_width, generator=draw)
        self.pooled = torch.randn(2, max(config.vector_width - 6 * 256, 0), generator=draw)
        self.sizes = torch.tensor([[512.0, 512, 0, 0, 512, 512]] * 2)
        self.vector = config.vector_width

    def ours(self, network: UNet, dtype: torch.dtype) -> Callable[[], Tensor]:
        """Our step; the prompt is prepared before."""
        vector = torch.cat(
            [self.pooled, sinusoidal(self.sizes.flatten(), 256).reshape(2, -1)], dim=1
        )
        tokens = Tokens(self.words.to(dtype), torch.ones(2, WORDS, dtype=torch.bool))
        given = network.prepare(Condition(tokens, vector=vector.to(dtype) if self.vector else None))
        noisy = self.noisy.to(dtype)
        return lambda: network(noisy, self.time, given)

    def theirs(
        self, network: nn.Module, dtype: torch.dtype, layout: torch.memory_format
    ) -> Callable[[], Tensor]:
        """Their step."""
        noisy = self.noisy.to(dtype).contiguous(memory_format=layout)
        words, added = (
            self.words.to(dtype),
            {"text_embeds": self.pooled.to(dtype), "time_ids": self.sizes.to(dtype)},
        )
        more = {"added_cond_kwargs": added} if self.vector else {}
        return lambda: network(noisy, self.time[0], words, return_dict=False, **more)[0]


def ours(config: Config, precision: str, asked: Asked) -> Callable[[], Tensor]:
    network = prepare(LatentDiffusion(denoiser=lively(config)), "cpu", precision).denoiser
    assert isinstance(network, UNet)
    return asked.ours(network, PRECISIONS[precision])


def theirs(
    config: Config, precision: str, layout: torch.memory_format, asked: Asked
) -> tuple[nn.Module, Callable[[], Tensor]]:
    from diffusers import UNet2DConditionModel
    from diffusers.utils import logging

    logging.set_verbosity_error()
    layout = LAYOUTS[0]
    assert layout.describe is not None
    said = dict(layout.describe(config))
    said.pop("_class_name")
    with torch.device("meta"):
        network = UNet2DConditionModel(**said)
    network.load_state_dict(
        dict(layout.table(config).to_theirs(lively(config).state_dict())), assign=True
    )
    network = (
        network.eval().requires_grad_(False).to(PRECISIONS[precision]).to(memory_format=layout)
    )
    return network, asked.theirs(network, PRECISIONS[precision], layout)


@torch.inference_mode()
def compare(options: argparse.Namespace) -> None:
    config = SHAPES[options.shape]
    asked = Asked(config, options.size)
    ways = {"ours bf16": ours(config, "bf16", asked), "ours fp32": ours(config, "fp32", asked)}
    _, ways["diffusers fp32"] = theirs(config, "fp32", torch.contiguous_format, asked)
    _, ways["diffusers bf16 channels-last"] = theirs(config, "bf16", torch.channels_last, asked)
    if options.compile:
        import torch._inductor.config as inductor

        inductor.freezing = True
        network, _ = theirs(config, "bf16", torch.channels_last, asked)
        network.compile()
        ways["diffusers bf16 compiled"] = asked.theirs(network, torch.bfloat16, torch.channels_last)
    truth = ways["diffusers fp32"]()
    for name, run in ways.items():
        difference = run().float() - truth
        most, mean = difference.abs().max() / truth.abs().max(), difference.norm() / truth.norm()
        print(
            f"{name:32} from diffusers' fp32: {most:.1e} of the largest value, {mean:.1e} in the "
            "mean square"
        )
        assert most < 1e-4 if "fp32" in name else mean < 0.05, name
    took = interleaved(ways, options.rounds)
    for name, seconds in took.items():
        print(f"{name:32} {seconds:.3f} s, {seconds / took['ours bf16']:.2f} times ours in bf16")


@torch.inference_mode()
def profile(options: argparse.Namespace) -> None:
    config = SHAPES[options.shape]
    step = ours(config, "bf16", Asked(config, options.size))
    step()
    with torch.profiler.profile() as seen:
        step()
    print(
        seen.key_averages(group_by_input_shape=False).table(
            sort_by="self_cpu_time_total", row_limit=25
        )
    )


if __name__ == "__main__":
    main()
