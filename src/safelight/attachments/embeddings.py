"""Attaching textual-inversion embeddings: into a model's prompts, and out again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from safelight.adapters.textual_inversion import read
from safelight.conditioners import embedding_readers
from safelight.errors import BadInput
from safelight.model import LatentDiffusion
from safelight.types.networks import AcceptsEmbeddings
from safelight.weights.files import open_weights


def add_embeddings_from(model: LatentDiffusion, path: str | Path, name: str = "") -> list[str]:
    """Let the prompts of ``model`` use the embeddings of a file, and return their names.

    ``name`` is for an embedding without a name in the file; by default that of the file. The
    model's own weights stay as they are. Raises BadInput, with the model unchanged, if the file
    holds no embeddings, or those of another model.
    """
    path = Path(path)
    weights = open_weights(path)
    return add_embeddings(model, read(weights, weights.metadata, name or path.stem))


def add_embeddings(model: LatentDiffusion, embeddings: Mapping[str, Sequence[Tensor]]) -> list[str]:
    """Let the prompts of ``model`` use embeddings, and return their names.

    Each has vectors (n, width) for every text encoder that it was trained for. BadInput, with the
    model unchanged, for embeddings of another model.
    """
    readers = _readers(model)
    for name, vectors in embeddings.items():
        for reader in readers:
            reader.check_embedding(name, vectors)
    for name, vectors in embeddings.items():
        for reader in readers:
            reader.add_embedding(name, vectors)
    return list(embeddings)


def remove_embedding(model: LatentDiffusion, name: str) -> None:
    """Treat ``name`` as ordinary text again; BadInput if there is no such embedding."""
    for reader in _readers(model):
        reader.remove_embedding(name)


def _readers(model: LatentDiffusion) -> list[AcceptsEmbeddings]:
    readers = embedding_readers(model.conditioner)
    if not readers:
        raise BadInput(
            f"the model {model.card.name!r} has no text encoders that accept "
            "textual-inversion embeddings."
        )
    return readers
