"""Compare decoding with diffusers, and measure the memory that a large picture takes.

python benchmarks/first_stage.py decode [--size 512] [--rounds 3] [--threads 2] [--compile]
python benchmarks/first_stage.py memory [--size 2048] [--precision bf16] [--tile 128]
    [--hold 1024] [--threads 2]

decode: the f8 decoder in Stable Diffusion's shape against diffusers' AutoencoderKL with the same
weights, in each precision and memory format (``--compile``: and compiled by torch). Outputs are
checked equal first.
memory: the peak resident memory of a decode in tiles, minus what the process holds before it with
its weights (values that kernels derive from weights are counted); maps between layers are kept in
memory up to ``--hold`` MiB. Linux only.
"""

import argparse
import copy
import ctypes
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from timing import interleaved, machine
from torch import Tensor, nn

from safelight.autoencoders.kl.config import Config
from safelight.autoencoders.kl.network import KL
from safelight.model import LatentDiffusion
from safelight.nn.kernels.compiled import library
from safelight.nn.kernels.convolution import Convolution3
from safelight.runtime import prepare
from safelight.runtime.tiled import Tiled

NAMES = {  # of the decoder's parts, ours → theirs; a number is filled in
    "post_quant": "post_quant_conv",
    "decoder.enter": "decoder.conv_in",
    "decoder.norm": "decoder.conv_norm_out",
    "decoder.leave": "decoder.conv_out",
    "decoder.middle.0": "decoder.mid_block.resnets.0",
    "decoder.middle.2": "decoder.mid_block.resnets.1",
    "decoder.middle.1.norm": "decoder.mid_block.attentions.0.group_norm",
    "decoder.middle.1.out": "decoder.mid_block.attentions.0.to_out.0",
    **{
        f"decoder.levels.{4 * i + j}": f"decoder.up_blocks.{i}.resnets.{j}"
        for i in range(4)
        for j in range(3)
    },
    **{
        f"decoder.levels.{4 * i + 3}.conv": f"decoder.up_blocks.{i}.upsamplers.0.conv"
        for i in range(3)
    },
}
QKV = ("decoder.middle.1.qkv", "decoder.mid_block.attentions.0.to_")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["decode", "memory"])
    parser.add_argument("--size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--hold", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{machine()}, diffusers {version('diffusers')}, kernels "
        f"{'compiled' if library() else 'not compiled'}"
    )
    {"decode": decode, "memory": memory}[options.what](options)


def candidates(size: int, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Ways to decode the same latents (1, 4, size/8, size/8) with the same weights, by name."""
    from diffusers import AutoencoderKL
    from diffusers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    ours = Config().build()
    peer = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    del ours.encoder, ours.quant, peer.encoder, peer.quant_conv
    carry(ours, peer)
    latents = torch.randn(1, 4, size // 8, size // 8)
    found: dict[str, Callable[[], Tensor]] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        mine = prepare(
            LatentDiffusion(autoencoder=copy.deepcopy(ours)), "cpu", precision
        ).autoencoder
        z = latents.to(dtype)
        found[f"ours {precision}"] = lambda mine=mine, z=z: mine.decode(z)
        for layout, memory_format in (
            ("", torch.contiguous_format),
            (" channels-last", torch.channels_last),
        ):
            theirs = (
                copy.deepcopy(peer)
                .eval()
                .requires_grad_(False)
                .to(dtype)
                .to(memory_format=memory_format)
            )
            z = latents.to(dtype).to(memory_format=memory_format)
            found[f"diffusers {precision}{layout}"] = lambda theirs=theirs, z=z: (
                theirs.decode(z).sample
            )
            if compiled:
                theirs = copy.deepcopy(theirs)
                theirs.decoder.compile()
                found[f"diffusers {precision}{layout} compiled"] = lambda theirs=theirs, z=z: (
                    theirs.decode(z).sample
                )
    return found


def carry(ours: KL, peer: nn.Module) -> None:
    """Give the peer's decoder the weights of ours, made lively: norms that scale and shift too."""
    theirs = peer.state_dict()
    own = {
        **NAMES,
        "norm1": "norm1",
        "norm2": "norm2",
        "conv1": "conv1",
        "conv2": "conv2",
        "skip": "conv_shortcut",
    }
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
            part, kind = name.rsplit(".", 1)
            if part == QKV[0]:
                for letter, third in zip("qkv", weight.squeeze().chunk(3), strict=True):
                    theirs[f"{QKV[1]}{letter}.{kind}"].copy_(third)
                continue
            if part not in own:
                block, leaf = part.rsplit(".", 1)
                part = f"{own[block]}.{own[leaf]}"
            else:
                part = own[part]
            theirs[f"{part}.{kind}"].copy_(weight.reshape(theirs[f"{part}.{kind}"].shape))


@torch.inference_mode()
def decode(options: argparse.Namespace) -> None:
    size = options.size or 512
    ways = candidates(size, options.compile)
    truth = ways["diffusers fp32"]()
    for name, run in ways.items():
        difference = run().float() - truth
        most, mean = difference.abs().max() / truth.abs().max(), difference.norm() / truth.norm()
        print(
            f"{name:40} from diffusers' fp32: {most:.1e} of the largest value, {mean:.1e} in the "
            "mean square"
        )
        assert most < 1e-4 if "fp32" in name else mean < 0.05, name
    took = interleaved(ways, options.rounds, warmup=0)
    for name, seconds in took.items():
        print(f"{name:40} {seconds:.3f} s")
    for precision in ("fp32", "bf16"):
        best = min(
            seconds for name, seconds in took.items() if name.startswith(f"diffusers {precision}")
        )
        print(
            f"{precision}: {best / took[f'ours {precision}']:.2f} times as fast as diffusers' best"
        )
    best = min(seconds for name, seconds in took.items() if name.startswith("diffusers"))
    print(
        f"decoding {size}×{size}: {best / took['ours bf16']:.2f} times as fast as diffusers' best "
        "of all"
    )


@torch.inference_mode()
def memory(options: argparse.Namespace) -> None:
    size = options.size or 2048
    torch.manual_seed(0)
    ours = Config().build()
    del ours.encoder, ours.quant
    part = prepare(LatentDiffusion(autoencoder=ours), "cpu", options.precision).autoencoder
    tiled = Tiled(part, options.tile, options.hold * 2**20)
    latents = torch.randn(1, 4, size // 8, size // 8, dtype=part.decoder.leave.weight.dtype)
    tiled.decode(latents[..., :1, :1])  # libraries are loaded and kernels built
    part.decoder.apply(lambda one: one.forget() if isinstance(one, Convolution3) else None)
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide as much of what comes
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    began = time.perf_counter()
    images = tiled.decode(latents)
    took = time.perf_counter() - began
    assert images.isfinite().all()
    above = resident("VmHWM") - before
    print(
        f"{size}×{size} {options.precision}, tiles of {tiled.tile}, {options.hold} MiB to hold: "
        f"{took:.0f} s"
    )
    print(
        f"peak {above / 1e6:.0f} MB above the {before / 1e6:.0f} MB of the process with its weights"
    )


def resident(what: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


if __name__ == "__main__":
    main()
