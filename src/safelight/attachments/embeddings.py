"""Learned words from a file into a model, and out again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from safelight.adapters.textual_inversion import read
from safelight.conditioners import embedding_readers
from safelight.errors import BadInput
from safelight.model import LatentDiffusion
from safelight.types.networks import AcceptsEmbeddings
from safelight.weights.files import open_weights


def add_words(model: LatentDiffusion, path: str | Path, name: str = "") -> list[str]:
    """Let the prompts of ``model`` use the learned words of a file, and say which these are.

    ``name``: the word where the file says none, else that of the file. The model's own weights stay as they are. Raises
    BadInput, with the model untouched, if the file holds no words, or words for another model.
    """
    path = Path(path)
    weights = open_weights(path)
    return learn(model, read(weights, weights.metadata, name or path.stem))


def learn(model: LatentDiffusion, words: Mapping[str, Sequence[Tensor]]) -> list[str]:
    """Let the prompts of ``model`` use these words, each with vectors (n, width) for each tower it was learned for.

    BadInput, with the model untouched, for words of another model.
    """
    readers = _readers(model)
    for word, vectors in words.items():
        for reader in readers:
            reader.check_embedding(word, vectors)
    for word, vectors in words.items():
        for reader in readers:
            reader.add_embedding(word, vectors)
    return list(words)


def remove_embedding(model: LatentDiffusion, name: str) -> None:
    """Read ``name`` as other text again; BadInput if it was not added."""
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
