"""Obedience by retrieval: is the picture that a caption belongs to the nearest to what it made."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from safelight.evaluation.intervals import Figure, share
from safelight.evaluation.neighbourhoods import distances


def ranks(samples: Tensor, real: Tensor, kinds: Sequence[str]) -> Tensor:
    """The rank, from 1, of each sample's own real picture among all real ones of its kind.

    ``samples`` and ``real`` (n, d) belong together row by row; ``kinds`` are their styles. Real
    pictures that are as near as the own one count as nearer.
    """
    between = distances(samples, real)
    own = between.diagonal()
    same = torch.tensor([[a == b for b in kinds] for a in kinds])
    return (same & (between <= own[:, None])).sum(1)


def rank_figures(
    order: Tensor, kinds: Sequence[str], first: Sequence[int] = (1, 5)
) -> list[Figure]:
    """The share of samples whose own picture is among the nearest 1 and 5, with chance."""
    sizes = Counter(kinds)
    figures = []
    for most in first:
        chance = sum(min(most, sizes[kind]) / sizes[kind] for kind in kinds) / len(kinds)
        name = "true picture first" if most == 1 else f"true picture among the first {most}"
        figures.append(share(name, int((order <= most).sum()), len(order), chance))
    return figures


def nearest_captions(captions: Sequence[str], known: Sequence[str]) -> list[int]:
    """For each caption the place of the most similar one among ``known``.

    Similarity is the cosine of the counts of words, weighted by how rare a word is in ``known``
    (tf-idf: log((1 + n) / (1 + n_word)) + 1, Salton and Buckley 1988). Ties go to the first.
    """
    words = {
        word: place
        for place, word in enumerate(sorted({w for caption in known for w in _words(caption)}))
    }
    frequency = Counter(word for caption in known for word in set(_words(caption)))
    rarity = {word: math.log((1 + len(known)) / (1 + frequency[word])) + 1 for word in words}
    table = _vectors(known, words, rarity)
    return [int(place) for place in (_vectors(captions, words, rarity) @ table.T).argmax(1)]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _vectors(texts: Sequence[str], words: dict[str, int], rarity: dict[str, float]) -> Tensor:
    rows = torch.zeros(len(texts), len(words), dtype=torch.float64)
    for place, text in enumerate(texts):
        for word in _words(text):
            if word in words:
                rows[place, words[word]] += rarity[word]
    return torch.nn.functional.normalize(rows, dim=1)
