"""The CLIP score: how well pictures fit their captions in the space that both share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from safelight.evaluation.intervals import Figure, mean
from safelight.features.clip import CLIP
from safelight.tokenization.cleaning import clean
from safelight.tokenization.tokenizers import shipped
from safelight.types.tensors import Images

BEGIN, END = 49_406, 49_407
SCALE = 2.5


def clip_score_figure(
    network: CLIP,
    images: Images,
    captions: Sequence[str],
    repeats: int,
    generator: torch.Generator,
    batch: int = 16,
) -> Figure:
    """The mean of 2.5 · max(cos, 0) of pictures and captions (Hessel et al., arXiv 2104.08718, eq.
    1, without the words "a photo depicts" before captions). BadInput if the network reads no texts.
    """
    tokenizer = shipped("clip")
    cosines = []
    for start in range(0, len(images), batch):
        texts = captions[start : start + batch]
        ids = [
            [BEGIN, *tokenizer.encode(clean(text), add_special_tokens=False).ids, END]
            for text in texts
        ]
        with torch.inference_mode():
            image_vectors, text_vectors = (
                network.vector(images[start : start + batch]),
                network.text_vector(ids),
            )
        cosines.append(F.cosine_similarity(image_vectors.double(), text_vectors.double()))
    scores = SCALE * torch.cat(cosines).clamp(min=0)
    figure = mean("CLIP score", scores.clone(), repeats, generator)
    return Figure(figure.name, figure.value, figure.low, figure.high, figure.count, network.name)
