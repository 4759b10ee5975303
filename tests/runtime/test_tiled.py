"""Tiles give what the whole image gives: exactly where networks look at near places, within a bound elsewhere."""

import pytest
import torch
from torch import Tensor

from safelight.autoencoders.kl import Config as KL
from safelight.autoencoders.tiny import Config as Tiny
from safelight.errors import BadInput
from safelight.nn.norms import GroupNorm
from safelight.runtime.tiled import Tiled, spans
from safelight.types import Autoencoder


def waves(height: int, width: int, batch: int = 1) -> Tensor:
    """Pictures whose left and right, and up and down, differ in tone and detail."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    one = torch.stack([torch.sin(40 * x * y), torch.cos(9 * y) * x, torch.sin(3 * (x + y)) - 0.2])
    return torch.stack([one.roll(number, 0) for number in range(batch)]).clamp(-1, 1)


def kl(seed: int = 0, **changes):
    torch.manual_seed(seed)
    return KL(**{"width": 16, "multipliers": (1, 2, 2), "blocks": 1, "groups": 4} | changes).build()


@pytest.mark.parametrize(
    ("side", "tile", "overlap", "grain"), [(64, 16, 8, 4), (37, 16, 5, 1), (16, 16, 4, 1), (9, 16, 8, 1)]
)
def test_tiles_cover_an_axis_once(side, tile, overlap, grain):
    tiles = list(spans(side, tile, overlap, grain))
    total = torch.zeros(side)
    for one in tiles:
        total[one.start : one.end] += one.weights(one.end - one.start)
    torch.testing.assert_close(total, torch.ones(side))
    assert [one.right for one in tiles[:-1]] == [one.left for one in tiles[1:]]
    assert (tiles[0].left, tiles[-1].right) == (0, side)
    assert max(one.end - one.start for one in tiles) <= tile
    assert all(one.left % grain == 0 for one in tiles)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(240, 320), (200, 100), (32, 32)])
def test_a_network_without_norms_is_exact_where_the_overlap_covers_what_it_sees(height, width):
    torch.manual_seed(0)
    tiny = Tiny(width=8, blocks=1, levels=2).build()  # sees 7.25 latents, 29 pixels, to each side; 3/8 of 80 are 30
    tiled = Tiled(tiny, tile=160, overlap=80)
    given = waves(height, width, 2)
    latents = tiny.encode(given).mode()
    torch.testing.assert_close(tiled.encode(given).mode(), latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiled.decode(latents), tiny.decode(latents), atol=1e-5, rtol=0)


@torch.no_grad()
def test_too_small_an_overlap_shows():
    torch.manual_seed(0)
    tiny = Tiny(width=8, blocks=1, levels=2).build()
    latents = tiny.encode(waves(128, 128)).mode()
    assert (Tiled(tiny, 32, 0).decode(latents) - tiny.decode(latents)).abs().max() > 1e-4


@torch.no_grad()
def test_enough_rounds_make_group_norms_exact():
    part, given = kl(multipliers=(1, 2)), waves(120, 164, 2)  # sees 14 pixels to each side; 3/8 of 40 are 15
    encoding = part.encode(given)
    tiled = Tiled(part, tile=80, overlap=40, rounds=sum(isinstance(one, GroupNorm) for one in part.decoder.modules()))
    torch.testing.assert_close(tiled.encode(given).mode(), encoding.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(tiled.encode(given).deviation, encoding.deviation, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(tiled.decode(encoding.mean), part.decode(encoding.mean), atol=1e-4, rtol=0)
    assert all(one.shared is None for one in part.modules() if isinstance(one, GroupNorm))


def test_it_is_an_autoencoder_and_says_what_the_inner_one_says():
    part = kl()
    tiled = Tiled(part, tile=61, overlap=13)
    assert isinstance(tiled, Autoencoder)
    assert (tiled.factor, tiled.tile, tiled.overlap) == (4, 64, 16)
    assert tiled.latent_shape((1, 3, 16, 8)) == (1, 4, 4, 2)
    assert set(tiled.costs(part.encode(waves(16, 16)))) == {"kl"}
    with pytest.raises(BadInput, match="multiples of 4, got 18×16"):
        tiled.encode(waves(16, 18))


@pytest.mark.parametrize(("tile", "overlap", "rounds"), [(64, 40, 0), (64, -1, 0), (0, 0, 0), (64, 16, -1)])
def test_tiles_that_cannot_be_are_refused(tile, overlap, rounds):
    with pytest.raises(BadInput, match="tiles: wanted an overlap of at most half a tile"):
        Tiled(kl(), tile, overlap, rounds)
