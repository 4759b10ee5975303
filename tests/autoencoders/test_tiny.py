"""The tiny autoencoder with its public weights, where they are at hand."""

import io
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import tiny_autoencoder  # noqa: E402

from safelight.autoencoders.tiny.config import Config  # noqa: E402
from safelight.errors import BadInput  # noqa: E402
from safelight.media.pictures import to_images  # noqa: E402

FOLDER = ROOT.parent / "shared" / "data" / "taesd"
PHOTOGRAPHS = FOLDER.parent / "caltech101-128" / "caltech101-128.zip"
PSNR = {
    "taesd": 21.85,
    "taesdxl": 21.78,
    "taesd3": 25.67,
    "taef1": 24.04,
    "taef2": 26.65,
}  # dB, measured


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """Eight photographs of 128 px."""
    with zipfile.ZipFile(PHOTOGRAPHS) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))[::600]
        return to_images(
            [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
        )


@pytest.mark.skipif(
    not PHOTOGRAPHS.exists(), reason="the public weights and photographs are not here"
)
@pytest.mark.parametrize("name", PSNR)
@torch.no_grad()
def test_the_public_weights_reconstruct_photographs(name, photographs):
    tiny = tiny_autoencoder.read_tiny(
        FOLDER / f"{name}_encoder.safetensors", FOLDER / f"{name}_decoder.safetensors"
    )
    again = tiny.decode(tiny.encode(photographs).mode()).clamp(-1, 1)
    error = (again - photographs).square().flatten(1).mean(1)
    psnr = (10 * torch.log10(4 / error)).mean()  # the range of the values is 2
    print(f"{name}: {len(photographs)} photographs, PSNR {psnr:.2f} dB")
    assert psnr == pytest.approx(PSNR[name], abs=0.3)


def test_pools_are_at_the_lowest_size_only():
    tiny = Config(width=8, blocks=2, pool=True).build()
    places = {tuple(name.split(".")[:2]) for name in tiny.state_dict() if "pool" in name}
    assert places == {("encoder", "9"), ("encoder", "10"), ("decoder", "2"), ("decoder", "3")}
    still = Config(width=8, blocks=2).build()
    still.load_state_dict(
        {name: value for name, value in tiny.state_dict().items() if "pool" not in name}
    )
    images = torch.rand(1, 3, 16, 16)
    assert not torch.allclose(tiny.encode(images).mode(), still.encode(images).mode())


def test_weights_that_do_not_fit_are_refused(tmp_path):
    tiny = Config(width=8).build()
    halves = {name: {} for name in ("encoder", "decoder")}
    for name, value in tiny.state_dict().items():
        half, _, rest = name.partition(".")
        if half in halves:
            number, _, rest = rest.partition(".")
            halves[half][f"{int(number) + (half == 'decoder')}.{rest}"] = value
    ours = tiny_autoencoder.renamed(halves)
    assert all(
        torch.equal(ours[name], value)
        for name, value in tiny.state_dict().items()
        if "scale" not in name
    )
    for half, weights in halves.items():
        save_file(weights, tmp_path / f"{half}.safetensors")
    with pytest.raises(
        BadInput, match=r"encoder.safetensors with decoder.safetensors does not fit .* has shape"
    ):
        tiny_autoencoder.read_tiny(
            tmp_path / "encoder.safetensors", tmp_path / "decoder.safetensors"
        )
