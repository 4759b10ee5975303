"""Tiles give what the whole image gives, of every family, and need no more memory for more of
them."""

import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from safelight.autoencoders.dcae.config import Config as DCAE
from safelight.autoencoders.identity.config import Config as Identity
from safelight.autoencoders.kl.config import Config as KL
from safelight.autoencoders.tiny.config import Config as Tiny
from safelight.autoencoders.vq.config import Config as VQ
from safelight.checkpoints import load
from safelight.errors import BadInput
from safelight.model import LatentDiffusion
from safelight.nn.configs import Codes
from safelight.nn.local_layers import Tileable
from safelight.runtime import prepare
from safelight.runtime.tiled import PendingLayers, StoredMaps, Tiled, run_tiled
from safelight.types.networks import Autoencoder

PYRAMID = {"width": 16, "multipliers": (1, 2, 2), "blocks": 1, "groups": 4}
DEEP = {"widths": (8, 16, 16), "head": 8, "latent_channels": 4}
ALIKE = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}
SKIPPING = {"encoder_blocks": (0, 1, 1), "decoder_blocks": (0, 1, 1)}
FAMILIES = {
    "kl": KL(**PYRAMID),
    "kl-attending": KL(**PYRAMID | {"attention": (2,)}),
    "kl-attending-everywhere": KL(**PYRAMID | {"attention": (1, 2)}),
    "vq": VQ(**PYRAMID, codebook=Codes(32)),
    "vq-nowhere-attending": VQ(**PYRAMID, codebook=Codes(32), middle=False),
    "tiny": Tiny(width=8, blocks=1, levels=2),
    "tiny-pooling": Tiny(width=8, blocks=2, levels=2, pool=True),
    "dcae": DCAE(**DEEP, **ALIKE, attend_from=2),
    "dcae-plain": DCAE(**DEEP, **ALIKE, attend_from=1, resample="plain", fixed_norm=True),
    "dcae-nowhere-attending": DCAE(**DEEP, **SKIPPING, attend_from=3),
    "identity": Identity(),
}


def waves(height: int, width: int, batch: int = 1) -> Tensor:
    """Pictures whose left and right, and up and down, differ in tone and detail."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    one = torch.stack([torch.sin(40 * x * y), torch.cos(9 * y) * x, torch.sin(3 * (x + y)) - 0.2])
    return torch.stack([one.roll(number, 0) for number in range(batch)]).clamp(-1, 1)


@torch.no_grad()
def lively(config, seed: int = 0):
    """With norms that scale and shift, too."""
    torch.manual_seed(seed)
    part = config.build()
    for weight in part.parameters():
        if weight.ndim == 1:
            weight.add_(0.3 * torch.randn_like(weight))
    return part.eval()


def apart(got: Tensor, want: Tensor) -> float:
    """The largest difference over the largest value."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    return ((got - want).abs().max() / want.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_tiles_are_the_whole(kind):
    part, given = lively(FAMILIES[kind]), waves(52, 44)
    assert isinstance(part, Tileable)
    tiled, encoding = Tiled(part, tile=28, hold=40_000), part.encode(given)
    again = tiled.encode(given)
    assert apart(again.mean, encoding.mean) < 1e-5
    assert encoding.deviation is None or apart(again.deviation, encoding.deviation) < 1e-5
    assert apart(tiled.decode(encoding.mean), part.decode(encoding.mean)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    ("height", "width", "tile", "hold"),
    [
        (8, 12, 1, 0),
        (4, 60, 7, 2_000),
        (36, 28, 16, 0),
        (36, 28, 16, 2**30),
        (16, 16, 16, 0),
        (16, 16, 99, 0),
    ],
)
def test_tiles_of_any_size_and_however_little_is_held_are_the_whole(height, width, tile, hold):
    part = lively(KL(**PYRAMID | {"multipliers": (1, 2), "groups": 2}))
    given = waves(height, width, 2)
    tiled, encoding = Tiled(part, tile, hold), part.encode(given)
    assert apart(tiled.encode(given).mean, encoding.mean) < 1e-5
    assert apart(tiled.decode(encoding.mean), part.decode(encoding.mean)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("width", "groups"), [(64, 8), (16, 4)])
def test_in_bf16_they_are_as_near_to_the_truth(width, groups):
    """With compiled kernels, where there are any, for a width of 64. Moments that differ in the
    last digits change what is rounded, and so all that follows: tiles and the whole differ by as
    much as either does from the truth."""
    exact = lively(KL(**PYRAMID | {"width": width, "groups": groups}))
    latents = exact.encode(waves(48, 40)).mean
    truth = exact.decode(latents)
    part = prepare(LatentDiffusion(autoencoder=exact), "cpu", "bf16").autoencoder
    whole, tiles = part.decode(latents), Tiled(part, tile=24, hold=100_000).decode(latents)
    assert (tiles - truth).norm() < 1.1 * (whole - truth).norm()
    assert (tiles - whole).norm() < 1.5 * (whole - truth).norm()


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_embedded_autoencoder_has_no_seams(precision):
    part = load("stickers", "cpu", precision).autoencoder
    latents = part.encode(waves(256, 320)).mode()
    difference = 127.5 * (Tiled(part, tile=96).decode(latents) - part.decode(latents)).abs()
    assert difference.max() < 0.01 if precision == "fp32" else 1  # of 255


class Memory(TorchDispatchMode):
    """``most``: the bytes of tensors made within that were there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self._known = 0, 0, set[int]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in self._known:
                storage = one.untyped_storage()
                self._known.add(storage._cdata)
                self._change(storage.nbytes())
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return made

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._change(-size)

    def _change(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


@torch.no_grad()
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_memory_hardly_grows_with_the_image(direction):
    """But for the image itself, made of strips and once more as a whole, and for what may be held.
    Measured: to 3.3 and 2.2 MB, where the whole takes 26.5."""
    part = lively(VQ(width=16, multipliers=(1, 1, 1, 1), blocks=1, groups=4, middle=False))
    layers = part.encode_local() if direction == "encode" else part.decode_local()
    hold, most = 2**19, []
    for tiles in (3, 6):
        side = 48 * tiles
        given = (
            waves(side, side) if direction == "encode" else torch.zeros(1, 16, side // 8, side // 8)
        )
        with Memory() as memory:
            run_tiled(layers, PendingLayers(StoredMaps(given)), (tiles, tiles), hold)
        most.append(memory.most)
    with Memory() as memory:
        part.encoder.forward_local(given) if direction == "encode" else part.decoder.forward_local(
            given
        )
    assert most[1] - most[0] < hold + 2 * 4 * 3 * (288**2 - 144**2)
    assert most[1] < memory.most / 6


def test_they_are_autoencoders_and_say_what_the_inner_one_says():
    part = lively(FAMILIES["kl"])
    tiled = Tiled(part, tile=61)
    assert isinstance(tiled, Autoencoder)
    assert tiled.factor == 4
    assert tiled.last_layer is part.last_layer
    assert tiled.latent_shape((1, 3, 16, 8)) == (1, 4, 4, 2)
    assert set(tiled.regularisers(part.encode(waves(16, 16)))) == {"kl"}
    with pytest.raises(BadInput, match="multiples of 4, got 18×16"):
        tiled.encode(waves(16, 18))


@pytest.mark.parametrize(("tile", "hold"), [(0, 0), (-1, 5), (64, -1)])
def test_tiles_that_cannot_be_are_refused(tile, hold):
    with pytest.raises(BadInput, match="tiles: wanted tiles of at least 1 pixel"):
        Tiled(lively(FAMILIES["kl"]), tile, hold)
