"""The latent cache: what the autoencoder makes of each picture, kept once and sampled just in time.

Kept by content: the autoencoder's hash, the framing and the picture's hash together name an entry, so an entry can
never be stale, and runs on overlapping data share what they have.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from safelight.data.examples import Examination, Progress, Source
from safelight.data.framing import Framing
from safelight.errors import BadInput, CannotSave
from safelight.files import digest
from safelight.media.pictures import read_picture
from safelight.types.networks import Encoding
from safelight.types.tensors import Images

Encode = Callable[[Images], Encoding]


class LatentCache:
    """Encodings of a source's pictures in one SQLite file, in float32; made where they are missing."""

    def __init__(self, path: Path, autoencoder: str, framing: Framing) -> None:
        if not framing.fixed:
            raise BadInput(
                'latents are kept only for fixed framing: set crop = "centre" and mirror = false.'
            )
        self._framing = framing
        self._prefix = f"{autoencoder} {sorted(asdict(framing).items())}"
        with _saving(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path = path
            self._file = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self._file.execute(
                "create table if not exists latents"
                " (key text primary key, shape text, mean blob, deviation blob) without rowid"
            )

    def close(self) -> None:
        """Let go of the file; what it holds stays."""
        self._file.close()

    def fill(
        self,
        source: Source,
        found: Examination,
        encode: Encode,
        batch: int = 16,
        progress: Progress | None = None,
    ) -> None:
        """Encode every good picture that is not there yet; interrupted work is kept."""
        there = {key for (key,) in self._file.execute("select key from latents")}
        indices = dict(zip(map(self._key, found.hashes), found.good, strict=True))  # one of each
        missing = [(index, key) for key, index in indices.items() if key not in there]
        for start in range(0, len(missing), batch):
            part = missing[start : start + batch]
            pictures = [read_picture(source[index].picture) for index, _ in part]
            images = (
                torch.stack([self._framing(picture) for picture in pictures]).float() / 127.5 - 1
            )
            self._keep([key for _, key in part], encode(images))
            if progress:
                progress(min(start + batch, len(missing)), len(missing))

    def read(self, hashes: Sequence[str]) -> Encoding:
        """The encodings of these pictures, as one batch."""
        rows = [
            self._file.execute(
                "select shape, mean, deviation from latents where key = ?", (self._key(one),)
            ).fetchone()
            for one in hashes
        ]
        shape = (len(rows), *(int(side) for side in rows[0][0].split()))
        mean = torch.from_numpy(
            np.frombuffer(b"".join(row[1] for row in rows), np.float32).copy()
        ).view(shape)
        if rows[0][2] is None:
            return Encoding(mean)
        spread = np.frombuffer(b"".join(row[2] for row in rows), np.float32).copy()
        return Encoding(mean, torch.from_numpy(spread).view(shape))

    def _key(self, picture: str) -> str:
        return digest([self._prefix, picture])

    def _keep(self, keys: Sequence[str], encoding: Encoding) -> None:
        mean = encoding.mean.detach().float().cpu()
        shape = " ".join(map(str, mean.shape[1:]))
        deviations = [None] * len(keys)
        if encoding.deviation is not None:
            deviations = [
                one.numpy().tobytes() for one in encoding.deviation.detach().float().cpu()
            ]
        rows = [
            (key, shape, one.numpy().tobytes(), deviation)
            for key, one, deviation in zip(keys, mean, deviations, strict=True)
        ]
        with _saving(self._path), self._file:
            self._file.executemany("insert or replace into latents values (?, ?, ?, ?)", rows)


@contextmanager
def _saving(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise CannotSave(
            f"cannot save the latent cache {str(path)!r}: {error}; what was there is kept."
        ) from error
