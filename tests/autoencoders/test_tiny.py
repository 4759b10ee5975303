"""The tiny autoencoder with its public weights, where they are at hand."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import tiny_autoencoder  # noqa: E402

from safelight.autoencoders.tiny import Config  # noqa: E402
from safelight.errors import BadInput  # noqa: E402

FOLDER = ROOT.parent / "shared" / "data" / "taesd"


def smooth(side: int = 64) -> torch.Tensor:
    """Soft waves of colour in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    return torch.stack([torch.sin(3 * x + 1), torch.cos(4 * y), torch.sin(2 * (x + y))])[None] * 0.8


@pytest.mark.skipif(not FOLDER.exists(), reason="the public weights are not here")
@torch.no_grad()
def test_the_public_weights_reconstruct_an_image():
    tiny = tiny_autoencoder.read_tiny(FOLDER / "taesd_encoder.safetensors", FOLDER / "taesd_decoder.safetensors")
    tiny.scale.measure([tiny.encode(smooth())])
    error = (tiny.decode(tiny.encode(smooth()).mode()) - smooth()).square().mean()
    psnr = 10 * torch.log10(4 / error)  # the range of the values is 2
    print(f"PSNR {psnr:.1f} dB")
    assert psnr > 25


def test_weights_that_do_not_fit_are_refused(tmp_path):
    tiny = Config(width=8).build()
    halves = {name: {} for name in ("encoder", "decoder")}
    for name, value in tiny.state_dict().items():
        half, _, rest = name.partition(".")
        if half in halves:
            number, _, rest = rest.partition(".")
            halves[half][f"{int(number) + (half == 'decoder')}.{rest}"] = value
    ours = tiny_autoencoder.renamed(halves)
    assert all(torch.equal(ours[name], value) for name, value in tiny.state_dict().items() if "scale" not in name)
    for half, weights in halves.items():
        save_file(weights, tmp_path / f"{half}.safetensors")
    with pytest.raises(BadInput, match=r"encoder.safetensors with decoder.safetensors does not fit .* has shape"):
        tiny_autoencoder.read_tiny(tmp_path / "encoder.safetensors", tmp_path / "decoder.safetensors")
