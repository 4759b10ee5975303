"""Make a model folder of a tiny autoencoder (TAESD) from its two public files.

The scale of its latents is measured on pictures.

python scripts/tiny_autoencoder.py taesd_encoder.safetensors taesd_decoder.safetensors PICTURES…
    --out runs/tiny

The files: TAESD by Ollin Boer Bohan (MIT), encoder and decoder as safetensors with the names of an
nn.Sequential.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

import safelight
from safelight.autoencoders.tiny.config import Config
from safelight.autoencoders.tiny.network import Tiny
from safelight.card import Card
from safelight.checkpoints.state_dicts import load_strictly
from safelight.data.dataset import Dataset
from safelight.data.examples import examine
from safelight.data.framing import Framing
from safelight.data.sources.folder import Config as Folder
from safelight.files import sha256
from safelight.model import LatentDiffusion
from safelight.training.calibration import calibrate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoder", type=Path)
    parser.add_argument("decoder", type=Path)
    parser.add_argument(
        "pictures", nargs="+", help="folders or zips to measure the latents' scale and colours on"
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    tiny = read_tiny(options.encoder, options.decoder)
    source = Folder(paths=tuple(options.pictures)).build()
    dataset = Dataset(source, examine(source), Framing(size=options.size), seed=0)
    places = list(range(0, len(dataset), -(-len(dataset) // 512)))
    colours = calibrate(tiny, (dataset.images(part, part) for part in _parts(places)))
    card = Card(
        name=options.encoder.stem.removesuffix("_encoder"),
        summary=(
            "Tiny autoencoder by Ollin Boer Bohan; its latents' scale was measured on the "
            "pictures named below."
        ),
        size=(options.size, options.size),
        licence="MIT (Ollin Boer Bohan)",
        data=(
            {"files": {file.name: sha256(file) for file in (options.encoder, options.decoder)}},
            source.origin(),
        ),
        preview=colours,
    )
    safelight.save(LatentDiffusion(autoencoder=tiny, card=card), options.out)
    print(
        f"saved {options.out}: mean {tiny.scale.mean.tolist()}, deviation "
        f"{tiny.scale.deviation.tolist()}"
    )


def read_tiny(encoder: Path, decoder: Path) -> Tiny:
    """The autoencoder of the two public files, its scale not yet measured."""
    halves = {"encoder": load_file(encoder), "decoder": load_file(decoder)}
    pool = any(".pool." in name for name in halves["decoder"])
    tiny = Config(latent_channels=halves["decoder"]["1.weight"].shape[1], pool=pool).build()
    scale = {name: value for name, value in tiny.state_dict().items() if name.startswith("scale.")}
    load_strictly(tiny, scale | renamed(halves), f"{encoder.name} with {decoder.name}")
    return tiny


def renamed(halves: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The public weights under our names; the clamp at the start of the decoder has none."""
    state = {}
    for half, weights in halves.items():
        for name, value in weights.items():
            place, _, rest = name.partition(".")
            state[f"{half}.{int(place) - (half == 'decoder')}.{rest}"] = value.float()
    return state


def _parts(places: list[int]) -> list[list[int]]:
    return [places[i : i + 16] for i in range(0, len(places), 16)]


if __name__ == "__main__":
    main()
