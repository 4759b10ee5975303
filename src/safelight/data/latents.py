"""The latent cache: each picture's encoding, computed once; training samples latents from it.

The key of an entry is made of the hashes of the autoencoder and the picture and of the framing, so
that an entry is never stale and runs on overlapping data share what they have.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from safelight.data.examples import Examination, Progress, Source
from safelight.data.framing import Framing, framed
from safelight.errors import BadInput, CannotSave
from safelight.files import digest
from safelight.types.networks import Encoding
from safelight.types.tensors import Images

Encode = Callable[[Images], Encoding]


class LatentCache:
    """The encodings of a source's pictures in one SQLite file, in float32."""

    def __init__(self, path: Path, autoencoder: str, framing: Framing) -> None:
        if not framing.fixed:
            raise BadInput(
                "latents can be cached only for fixed framing: "
                'set crop = "centre" and mirror = false.'
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
        """Close the file."""
        self._file.close()

    def fill(
        self,
        source: Source,
        examination: Examination,
        encode: Encode,
        batch: int = 16,
        progress: Progress | None = None,
    ) -> None:
        """Encode every good picture that is not in the file yet; interrupted work is kept."""
        cached = {key for (key,) in self._file.execute("select key from latents")}
        keys = map(self._key, examination.hashes)
        indices = dict(zip(keys, examination.good, strict=True))  # of equal pictures one
        missing = [(index, key) for key, index in indices.items() if key not in cached]
        for start in range(0, len(missing), batch):
            part = missing[start : start + batch]
            images = framed(source, [index for index, _ in part], self._framing)
            self._write([key for _, key in part], encode(images))
            if progress:
                progress(min(start + batch, len(missing)), len(missing))

    def read(self, hashes: Sequence[str]) -> Encoding:
        """The encodings of these pictures, as one batch."""
        rows = [
            self._file.execute(
                "select shape, mean, deviation from latents where key = ?", (self._key(picture),)
            ).fetchone()
            for picture in hashes
        ]
        shape = (len(rows), *(int(side) for side in rows[0][0].split()))
        mean = _tensor([row[1] for row in rows]).view(shape)
        if rows[0][2] is None:
            return Encoding(mean)
        return Encoding(mean, _tensor([row[2] for row in rows]).view(shape))

    def _key(self, picture: str) -> str:
        return digest([self._prefix, picture])

    def _write(self, keys: Sequence[str], encoding: Encoding) -> None:
        mean = encoding.mean.detach().float().cpu()
        shape = " ".join(map(str, mean.shape[1:]))
        deviations: list[bytes | None] = [None] * len(keys)
        if encoding.deviation is not None:
            deviations = [*_blobs(encoding.deviation)]
        means = _blobs(mean)
        rows = [(key, shape, *blobs) for key, *blobs in zip(keys, means, deviations, strict=True)]
        with _saving(self._path), self._file:
            self._file.executemany("insert or replace into latents values (?, ?, ?, ?)", rows)


def _blobs(batch: Tensor) -> list[bytes]:
    """The values of each sample as the bytes of float32."""
    return [sample.numpy().tobytes() for sample in batch.detach().float().cpu()]


def _tensor(blobs: Sequence[bytes]) -> Tensor:
    """The values of all samples, flat."""
    return torch.from_numpy(np.frombuffer(b"".join(blobs), np.float32).copy())


@contextmanager
def _saving(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise CannotSave(
            f"cannot save the latent cache {str(path)!r}: {error}; what it held is unchanged."
        ) from error
