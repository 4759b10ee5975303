"""Calibration: latents with zero mean and unit variance, and their map to colours."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import safelight
from making import AUTOENCODER, DENOISER, go, recipe, tables
from safelight.autoencoders.kl.config import Config as KL
from safelight.autoencoders.tiny.config import Config as Tiny
from safelight.card import Card
from safelight.config import read
from safelight.errors import BadInput
from safelight.media.pictures import to_images
from safelight.model import preview
from safelight.nn.latent_scale import LatentScale
from safelight.training.calibration import calibrate, fit_preview
from safelight.types.networks import Encoding

SHARED = Path(__file__).parents[3] / "shared" / "data" / "emoji"


class Mixer(nn.Module):
    """Latents that are mixtures of the mean colours of areas of four by four, in odd units."""

    def __init__(self, mixture, shift):
        super().__init__()
        self.mixture, self.shift = mixture, shift
        self.scale = LatentScale(len(shift))

    def encode(self, images):
        mixed = torch.einsum("dc,bchw->bdhw", self.mixture, F.avg_pool2d(images, 4))
        return self.scale.standard(Encoding(mixed + self.shift[:, None, None]))


def colourful(count=6, side=16):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_a_linear_autoencoder_is_previewed_exactly():
    noise = torch.Generator().manual_seed(1)
    mixer = Mixer(7 * torch.randn(5, 3, generator=noise), torch.randn(5, generator=noise))
    card = Card(preview=calibrate(mixer, colourful().split(4)))
    shown = colourful(2, side=24)
    torch.testing.assert_close(
        preview(card, mixer.encode(shown).mode()), F.avg_pool2d(shown, 4), atol=1e-5, rtol=0
    )


def test_the_map_is_the_least_squares_one_and_ignores_a_constant_channel():
    """Against another solver, on latents that no affine map turns into these colours."""
    noise = torch.Generator().manual_seed(2)
    latents, small = (
        torch.randn(3, 4, 5, 6, generator=noise),
        torch.randn(3, 3, 5, 6, generator=noise),
    )
    latents[:, 2] = 0.0
    found = torch.tensor(fit_preview(latents.split(2), small.split(2)), dtype=torch.float64)
    rows = F.pad(latents.double().movedim(1, -1).reshape(-1, 4), (0, 1), value=1.0)
    wanted = torch.linalg.pinv(rows) @ small.double().movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(found, wanted.T, atol=1e-6, rtol=0)
    assert found[:, 2].abs().max() < 1e-9


@pytest.mark.parametrize(
    "config", [read(KL, AUTOENCODER), Tiny(width=8, blocks=1, levels=1)], ids=["spread", "none"]
)
def test_each_channel_has_zero_mean_and_unit_variance_however_often(config):
    torch.manual_seed(0)
    autoencoder = config.build()
    with torch.no_grad():
        autoencoder.encoder.get_parameter(
            list(dict(autoencoder.encoder.named_parameters()))[-1]
        ).add_(3.0)
    shown = colourful(8, 32)
    first = calibrate(autoencoder, shown.split(3))
    for _ in range(2):
        with torch.no_grad():
            encoding = autoencoder.encode(shown)
        second = encoding.mean.square() + (
            0 if encoding.deviation is None else encoding.deviation.square()
        )
        assert encoding.mean.mean((0, 2, 3)) == pytest.approx([0.0] * 4, abs=1e-4)
        assert second.mean((0, 2, 3)) == pytest.approx([1.0] * 4, rel=1e-4)
        again = calibrate(autoencoder, shown.split(3))
    torch.testing.assert_close(torch.tensor(again), torch.tensor(first), atol=1e-3, rtol=1e-3)


def test_the_preview_goes_from_stage_one_to_the_complete_model(pictures, tmp_path):
    first = go(tmp_path / "first", recipe(tables("reconstruction", pictures, loop__updates=1)))
    second = go(
        tmp_path / "second",
        recipe(
            tables(
                "denoising", pictures, first.folder, loop__updates=1, objective__denoiser__width=32
            )
        ),
    )
    model = safelight.load(second.folder, device="cpu", precision="fp32")
    assert model.card.preview == safelight.load(first.folder).card.preview
    assert [len(row) for row in model.card.preview] == [DENOISER.get("channels", 4) + 1] * 3
    *_, last = safelight.steps(model, safelight.TextToImage("a red square"))
    shown = preview(model.card, last.estimate.clean)
    assert shown.shape == (1, 3, 16, 16)
    assert -1 <= shown.min() < shown.max() <= 1


def test_a_missing_or_wrong_preview_is_refused():
    with pytest.raises(BadInput, match="'old' has no preview map"):
        preview(Card("old"), torch.zeros(1, 4, 2, 2))
    with pytest.raises(BadInput, match="'other' is for 2 latent channels, got 4"):
        preview(Card("other", preview=((0.0, 0.0, 0.0),) * 3), torch.zeros(1, 4, 2, 2))


def test_any_number_of_axes():
    card = Card(preview=((0.5, 0.0, 0.1), (0.0, 0.5, 0.0), (0.0, 0.0, 9.0)))
    shown = preview(card, torch.ones(2, 2, 3, 4, 5))
    assert shown.shape == (2, 3, 3, 4, 5)
    assert shown[0, :, 0, 0, 0].tolist() == pytest.approx([0.6, 0.5, 1.0])


@pytest.mark.skipif(not SHARED.exists(), reason="the pictures are not here")
def test_emoji_are_recognisable_in_their_previews():
    """The embedded tiny autoencoder on other pictures: at most half the error of one colour."""
    tiny = safelight.load("stickers", device="cpu", precision="fp32").autoencoder
    with zipfile.ZipFile(SHARED / "emoji-fluent-128.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))
        shown = to_images([flat(archive.read(name)) for name in names[:: len(names) // 16]])
    card = Card(preview=calibrate(tiny, shown[::2].split(4)))
    with torch.no_grad():
        seen = preview(card, tiny.encode(shown[1::2]).mode())
    wanted = F.avg_pool2d(shown[1::2], 8)
    one = wanted.mean((0, 2, 3), keepdim=True)
    assert psnr(one, wanted) < 14
    assert psnr(seen, wanted) > psnr(one, wanted) + 6


def psnr(shown, wanted):
    return float(10 * torch.log10(4 / (shown - wanted).square().mean()))


def flat(data):
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")
