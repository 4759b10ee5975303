"""Images of any size come back as large as they went in."""

import pytest
import torch

from safelight.autoencoders.kl.config import Config
from safelight.autoencoders.tiny.config import Config as Tiny
from safelight.errors import BadInput
from safelight.runtime.sizes import crop, pad, reconstruct


def images(height, width, seed=0):
    return 2 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (3, 5), (8, 8), (15, 17), (24, 7)])
def test_padding_is_a_multiple_and_cropping_undoes_it(height, width):
    given = images(height, width)
    padded = pad(given, 8)
    assert [side % 8 for side in padded.shape[-2:]] == [0, 0]
    assert all(
        0 <= more - side < 8 for more, side in zip(padded.shape[-2:], (height, width), strict=True)
    )
    assert torch.equal(crop(padded, height, width), given)


def test_padding_mirrors_back_and_forth():
    row = torch.arange(3.0).expand(1, 1, 1, 3)
    assert pad(row, 8)[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert pad(row, 8)[0, 0, 7].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]  # one row, repeated
    assert torch.equal(
        pad(images(5, 4), 8)[..., :4],
        torch.nn.functional.pad(images(5, 4), (0, 0, 0, 3), "reflect"),
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (13, 7), (16, 24)])
@pytest.mark.parametrize(
    "config", [Config(width=8, multipliers=(1, 1, 1), blocks=1, groups=4), Tiny(width=8)]
)
def test_any_size_is_reconstructed(config, height, width):
    torch.manual_seed(0)
    autoencoder, given = config.build(), images(height, width)
    again = reconstruct(autoencoder, given)
    assert (again.shape, again.dtype) == (given.shape, torch.float32)
    assert again.abs().max() <= 1
    if height % 8 == width % 8 == 0:
        assert torch.equal(again, autoencoder.decode(autoencoder.encode(given).mode()).clamp(-1, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_refused(value):
    given = images(8, 8)
    given[1, 2, 3, 4] = value
    with pytest.raises(BadInput, match="got pixels that are NaN or infinite; mend the picture"):
        reconstruct(Tiny(width=8).build(), given)


def test_no_pixels_are_refused():
    with pytest.raises(BadInput, match="at least one pixel, got 0×4"):
        pad(images(4, 0), 8)
