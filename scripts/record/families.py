"""Record what the peer library answers with the weights that tests draw again (tests/drawn.py):
tests/recorded/drawn.

python scripts/record/families.py          all families, in a minute
python scripts/record/families.py sd1 sdxl

Names and shapes, in layouts.zip, are those of the original codes at toy width. diffusers and
transformers read weights by their own maps of names and run in fp32 on a CPU; walks are those of
diffusers' schedulers, or formulas (walks.py).
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import flows
import peers
import torch
import unets
from peers import File
from recording import DRAWN, numbers, opened, record, weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", nargs="*", help=", ".join(RECORDERS))
    for name in parser.parse_args().family or RECORDERS:
        place = DRAWN / name
        place.mkdir(exist_ok=True)
        with torch.no_grad():
            record(place, *RECORDERS[name]())
        print(
            place, sum(path.stat().st_size for path in place.rglob("*") if path.is_file()), "bytes"
        )


def ldm_kl() -> tuple[File, File, dict[str, Any]]:
    inputs, outputs, config = {}, {}, {}
    for name, levels, channels in (("f8", (1, 1, 1, 1), 4), ("f4", (1, 1, 2), 3)):
        if name == "f8":
            file = weights("ldm-kl", "f8.safetensors")
        else:
            whole = torch.load(opened("ldm-kl") / "f4.ckpt", weights_only=True)["state_dict"]
            file = {key: one.float() for key, one in whole.items() if not key.startswith("loss.")}
        pair = peers.autoencoder(file, tuple(32 * one for one in levels), channels)
        inputs[f"{name}.image"] = numbers(f"ldm-kl.{name}.image", 1, 3, 32, 48) / 2
        found = pair.encode(inputs[f"{name}.image"]).latent_dist
        inputs[f"{name}.eps"] = numbers(f"ldm-kl.{name}.eps", *found.mean.shape)
        told = {"moments": found.parameters, "mean": found.mean, "std": found.std}
        told["sample"] = found.mean + found.std * inputs[f"{name}.eps"]
        told |= {
            "decode_mode": pair.decode(found.mean).sample,
            "decode_sample": pair.decode(told["sample"]).sample,
        }
        outputs |= {f"{name}.{key}": one for key, one in told.items()}
        shape = {
            "ch": 32,
            "ch_mult": levels,
            "num_res_blocks": 1,
            "resolution": 64,
            "attn_resolutions": [],
        }
        config[name] = {"embed_dim": channels, "ddconfig": shape}
    return inputs, outputs, config


RECORDERS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "sd1": unets.sd1,
    "sd2-v": unets.sd2_v,
    "sd-x4-upscaler": unets.upscaler,
    "sdxl": unets.sdxl,
    **{name: partial(unets.widened, name) for name in ("sd1-edit", "sd2-inpaint", "sd2-depth")},
    **{name: partial(unets.widened, name) for name in ("sdxl-inpaint", "sdxl-refiner")},
    "sd3": lambda: flows.mmdit("sd3", 2, 11, (36, 40), 5.0),
    "sd35-medium": lambda: flows.mmdit("sd35-medium", 1, 9, (28, 24), 4.5),
    "flux-dev": flows.flux_dev,
    "flux-fill": flows.flux_fill,
    "flux-control": flows.flux_control,
    "flux2": flows.flux2,
    "ldm-kl": ldm_kl,
}


if __name__ == "__main__":
    main()
