"""How fast and how lean a folder of full size is loaded, beside diffusers.

python benchmarks/load.py [--rounds 3] [--stored fp16] [--precision fp16] [--folder FOLDER]

Writes a diffusers folder of Stable Diffusion 1.5's shapes with random weights (2.1 GB in fp16, the
file cache warm), then loads it in turn, each time in a new process: with diffusers'
``from_pretrained`` of the three networks, with our reader into the same three classes
(``assigned``), with ``safelight.load``, if that knows the folder, and, as what nobody can be faster
than, without a model: the bytes mapped, or copied into new memory (``bare``). Said of each: the
median seconds of the loading alone, by the clock and of the processor (which other work on the
machine disturbs less), and the peak resident memory over the size of the files, whole and above
what the process held before it began. Linux only. diffusers leaves weights unread where it does not
cast them, while our reader looks each through for NaN: ``--touch`` has both go on until every
weight was read once.

Twice as fast as diffusers cannot be had where ``bare`` takes half its time. On a busy virtual
machine of two cores (AMD EPYC with AVX512-bf16; diffusers 0.42.1; medians of 5) from fp16 into
bf16: bare 1.15 s, ours 2.10, diffusers 2.67 (before weights were converted in the cache and several
at once: 3.23 against 2.47), at a peak of 1.22 and 1.80 times the files, and when it was quiet 0.76,
2.35 and 2.04; as they are, touched: bare 0.25, ours 0.99, diffusers 0.83. Half of ours is the
kernel's, which hands out and clears new pages of 4 KB. In huge pages it takes a fifth, but not in a
virtual machine whose host takes free ones back.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timing import machine
from torch import nn

import safelight
from safelight import checkpoints
from safelight.checkpoints.state_dicts import load_strictly
from safelight.errors import BadInput
from safelight.layouts.detection import all_layouts
from safelight.weights.files import open_weights
from safelight.weights.meta import meta_init

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LEVELS = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    **LEVELS,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "sample_size": 512,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--stored", choices=DTYPES, default="fp16", help="the precision of the files"
    )
    parser.add_argument(
        "--precision", choices=DTYPES, default="fp16", help="the precision to load them in"
    )
    parser.add_argument(
        "--touch", action="store_true", help="go on until each weight was used once"
    )
    parser.add_argument("--folder", type=Path, help="where the files are kept for another time")
    parser.add_argument(
        "--only",
        choices=CONTESTANTS,
        help="load once in this process, and say what it took as JSON",
    )
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(CONTESTANTS[options.only], options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "model_index.json").exists():
            write(folder, DTYPES[options.stored])
        compare(folder, options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Each contestant in turn, in processes of their own."""
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    print(
        f"{machine()}, diffusers {version('diffusers')}; {size / 1e9:.2f} GB, loaded as "
        f"{options.precision}"
    )
    took: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    command = [sys.executable, __file__, "--folder", str(folder), "--precision", options.precision]
    command += ["--touch", "--only"] if options.touch else ["--only"]
    for _ in range(1 + options.rounds):
        for name, results in took.items():
            done = subprocess.run([*command, name], capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            else:
                results.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'':10}  seconds  of processor  peak / files  above the start / files")
    for name, results in took.items():
        if results[1:]:
            seconds, processor, peak, before = (
                statistics.median(result[key] for result in results[1:]) for key in KEYS
            )
            print(
                f"{name:10}  {seconds:7.2f}  {processor:12.2f}  {peak / size:12.2f}  "
                f"{(peak - before) / size:23.2f}"
            )


KEYS = ("seconds", "processor", "peak", "before")


def measure(
    load: Callable[[Path, str], Sequence[nn.Module]], options: argparse.Namespace
) -> dict[str, float]:
    """The seconds of one load, its peak of resident memory, and the memory before, in bytes."""
    import diffusers  # noqa: F401  what is imported is no part of loading, theirs or ours
    import transformers  # noqa: F401

    from safelight import inspection  # noqa: F401

    classes()
    all_layouts()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start, busy = resident("VmRSS"), time.perf_counter(), time.process_time()
    kept = load(options.folder, options.precision)
    for module in kept if options.touch else ():
        for parameter in module.parameters():
            parameter.detach().sum()
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    peak = resident("VmHWM")
    del kept
    return dict(zip(KEYS, (seconds, processor, peak, before), strict=True))


def resident(what: str) -> int:
    """A line of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def classes() -> dict[str, tuple[Any, Callable[[], nn.Module]]]:
    """The networks by their folder: the class, and what makes one of full size."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    return {
        "unet": (UNet2DConditionModel, lambda: UNet2DConditionModel(**UNET)),
        "vae": (AutoencoderKL, lambda: AutoencoderKL(**VAE)),
        "text_encoder": (CLIPTextModel, lambda: CLIPTextModel(CLIPTextConfig(**TEXT))),
    }


def write(folder: Path, dtype: torch.dtype) -> None:
    """The folder with random weights."""
    values = 0.02 * torch.randn(1 << 20)
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
    }
    for name, (kind, make) in classes().items():
        with torch.device("meta"):
            module = make()
        (folder / name).mkdir(parents=True, exist_ok=True)
        file = (
            "model.safetensors" if name == "text_encoder" else "diffusion_pytorch_model.safetensors"
        )
        state = {
            key: repeated(values, item.shape).to(dtype) for key, item in module.state_dict().items()
        }
        save_file(state, folder / name / file, metadata={"format": "pt"})
        config: Any = module.config
        text = (
            config.to_json_string()
            if name == "text_encoder"
            else json.dumps(dict(config), default=str)
        )
        (folder / name / "config.json").write_text(text)
        index[name] = ["transformers" if name == "text_encoder" else "diffusers", kind.__name__]
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps(index))


def repeated(values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A tensor of this shape, of these values again and again."""
    return values.repeat(-(-shape.numel() // len(values)))[: shape.numel()].reshape(shape)


def diffusers_loads(folder: Path, precision: str) -> list[nn.Module]:
    """The three networks as diffusers and transformers load them."""
    dtype = DTYPES[precision]
    return [
        kind.from_pretrained(folder / name, torch_dtype=dtype).eval()
        for name, (kind, _) in classes().items()
    ]


def assigned(folder: Path, precision: str) -> list[nn.Module]:
    """The same three networks, given their weights by our reader."""
    modules = []
    for name, (_, make) in classes().items():
        weights = open_weights(next((folder / name).glob("*.safetensors")))
        module = meta_init(make).to(DTYPES[precision]).eval()
        state = {key: item.to(DTYPES[precision]) for key, item in weights.items()}
        load_strictly(module, state, name, assign=True)
        modules.append(module)
    return modules


def bare(folder: Path, precision: str) -> list[nn.Module]:
    """The lower bounds: mapping the files, and copying them into new memory."""
    found = []
    for file in folder.rglob("*.safetensors"):
        mapped = torch.from_file(str(file), size=file.stat().st_size // 2, dtype=torch.float16)
        kept = mapped if precision == "fp16" else torch.empty_like(mapped).copy_(mapped)
        found.append(nn.ParameterList([nn.Parameter(kept, requires_grad=False)]))
    return found


def safelight_loads(folder: Path, precision: str) -> list[nn.Module]:
    """The whole model, in the precision of its files if that is none to compute in."""
    model = (
        checkpoints.read(folder)
        if precision == "fp16"
        else safelight.load(folder, "cpu", precision)
    )
    return [
        part
        for part in (model.autoencoder, model.conditioner, model.denoiser)
        if isinstance(part, nn.Module)
    ]


CONTESTANTS = {
    "diffusers": diffusers_loads,
    "assigned": assigned,
    "safelight": safelight_loads,
    "bare": bare,
}

if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        raise SystemExit(str(error)) from None
