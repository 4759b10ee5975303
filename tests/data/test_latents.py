"""The latent cache: filled once, keyed by content, whole after any interruption."""

import sqlite3

import pytest
import torch

from layouts import png, write_folder
from safelight.data.dataset import Dataset
from safelight.data.examples import examine
from safelight.data.framing import Framing
from safelight.data.latents import LatentCache
from safelight.data.sources.folder import Config
from safelight.errors import BadInput, CannotSave
from safelight.types.networks import Encoding


class Encoder:
    """Counts what it is given; ``spread`` says whether its encodings have a deviation."""

    def __init__(self, spread: bool = True, fails_after: int = 10**9) -> None:
        self.spread, self.fails_after, self.seen = spread, fails_after, 0

    def __call__(self, images):
        if self.seen >= self.fails_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        mean = images[:, :2, ::2, ::2].clone().requires_grad_()
        return Encoding(mean, mean.square() + 1 if self.spread else None)


@pytest.fixture
def data(tmp_path):
    write_folder(tmp_path / "data", {f"{number}.png": png(number % 5) for number in range(7)})
    source = Config(paths=(str(tmp_path / "data"),)).build()
    return source, examine(source)


@pytest.fixture
def opened(tmp_path):
    caches = []

    def make(path=tmp_path / "cache" / "latents.sqlite", autoencoder="ae", framing=Framing(4)):  # noqa: B008
        caches.append(LatentCache(path, autoencoder, framing))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close()


@pytest.mark.parametrize("spread", [True, False])
def test_reading_returns_what_the_autoencoder_encoded(data, opened, spread):
    source, examination = data
    cache, encoder = opened(), Encoder(spread)
    cache.fill(source, examination, encoder, batch=2)
    got = cache.read([examination.hashes[index] for index in (3, 0, 3)])
    want = encoder(Dataset(source, examination, Framing(4), 0).images([0] * 3, [3, 0, 3]))
    assert torch.equal(got.mean, want.mean)
    assert (got.deviation is None) is not spread
    assert not spread or torch.equal(got.deviation, want.deviation)


def test_each_different_picture_is_encoded_once(data, opened):
    source, examination = data
    encoder, seen = Encoder(), []
    opened().fill(source, examination, encoder, batch=2, progress=lambda *done: seen.append(done))
    assert encoder.seen == 5
    assert seen == [(2, 5), (4, 5), (5, 5)]
    opened().fill(source, examination, encoder, batch=2, progress=lambda *done: seen.append(done))
    assert encoder.seen == 5
    assert len(seen) == 3


def test_interrupted_work_is_kept(data, opened):
    source, examination = data
    first, second = Encoder(fails_after=4), Encoder()
    with pytest.raises(KeyboardInterrupt):
        opened().fill(source, examination, first, batch=2)
    opened().fill(source, examination, second, batch=2)
    assert (first.seen, second.seen) == (4, 1)


def test_entries_are_kept_by_autoencoder_framing_and_content(data, opened, tmp_path):
    source, examination = data
    for number, options in enumerate(
        [{}, {"autoencoder": "other"}, {"framing": Framing(2)}, {"framing": Framing(4, 6)}]
    ):
        encoder = Encoder()
        opened(**options).fill(source, examination, encoder)
        assert encoder.seen == 5, number
    write_folder(tmp_path / "renamed", {"x.png": png(4), "y.png": png(9)})
    other, encoder = Config(paths=(str(tmp_path / "renamed"),)).build(), Encoder()
    opened().fill(other, examine(other), encoder)
    assert encoder.seen == 1


@pytest.mark.parametrize("framing", [Framing(4, crop="random"), Framing(4, mirror=True)])
def test_random_framing_is_refused(opened, framing):
    with pytest.raises(BadInput, match='set crop = "centre" and mirror = false'):
        opened(framing=framing)


def test_a_file_that_cannot_be_written_is_one_sentence(opened, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.sqlite").write_bytes(b"no data base" * 100)
    for path in (
        tmp_path / "file" / "latents.sqlite",
        tmp_path / "folder",
        tmp_path / "broken.sqlite",
    ):
        with pytest.raises(
            CannotSave, match=r"^cannot save the latent cache .*: .*; what it held is unchanged.$"
        ):
            opened(path=path)


def test_a_full_disk_leaves_the_cache_unchanged(data, opened):
    source, examination = data
    cache = opened()
    cache.fill(source, examine(source), Encoder(), batch=2)
    cache = opened(autoencoder="other")
    pages = cache._file.execute("pragma page_count").fetchone()[0]
    cache._file.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(
        CannotSave,
        match=r"cannot save the latent cache '.*sqlite': .*full; what it held is unchanged",
    ):
        cache.fill(
            source,
            examination,
            lambda images: Encoding(torch.zeros(len(images), 4, 99, 99)),
            batch=2,
        )
    assert opened().read(examination.hashes).mean.shape == (7, 2, 2, 2)


def test_the_file_is_closed(opened):
    cache = opened()
    cache.close()
    with pytest.raises(sqlite3.ProgrammingError):
        cache.read(["x"])
