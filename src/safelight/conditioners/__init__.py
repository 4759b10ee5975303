"""Conditioners: prompts become what a denoiser is conditioned on. One file is one kind."""

from collections.abc import Iterator

from torch import nn

from safelight.types.networks import AcceptsEmbeddings, ReadsText


def text_readers(conditioner: object) -> list[ReadsText]:
    """The modules of a conditioner that read text, itself included.

    A conditioner around others thus need not forward what they offer.
    """
    return [module for module in _modules(conditioner) if isinstance(module, ReadsText)]


def embedding_readers(conditioner: object) -> list[AcceptsEmbeddings]:
    """The modules of a conditioner whose prompts may use textual-inversion embeddings."""
    return [module for module in _modules(conditioner) if isinstance(module, AcceptsEmbeddings)]


def _modules(conditioner: object) -> Iterator[object]:
    return conditioner.modules() if isinstance(conditioner, nn.Module) else iter([conditioner])
