"""Attaching LoRA and embeddings, which change the parts of a model."""

import warnings
from collections.abc import Sequence

from safelight.adapters.lora import Adapter, Merged
from safelight.attachments.embeddings import add_embeddings, add_embeddings_from
from safelight.attachments.licences import licence_of
from safelight.attachments.lora_files import adaptable_parts, read_adapter
from safelight.attachments.specs import EmbeddingSpec, LoraSpec
from safelight.errors import BadInput, Note
from safelight.model import LatentDiffusion, with_more


def attach_adapters(
    model: LatentDiffusion, loras: Sequence[LoraSpec], embeddings: Sequence[EmbeddingSpec] = ()
) -> LatentDiffusion:
    """The model with LoRAs merged and embeddings added.

    Its card names them, and so do its pictures. The parts are those of ``model``, changed in
    place. Raises BadInput, before anything is changed, for a LoRA that does not fit.
    """
    if not loras and not embeddings:
        return model
    scales = {lora.file: lora.scale for lora in loras}  # a file given twice counts once
    adapters = {read_adapter(file, model): scale for file, scale in scales.items()}
    merged = Merged(adaptable_parts(model))
    merged.use(adapters)
    try:
        names = [name for adapter in adapters for name in _add_bundled(adapter, model)]
        for embedding in embeddings:
            names += add_embeddings_from(model, embedding.file, embedding.name)
    except BadInput:
        merged.clear()
        raise
    attached = {file.name: scale for file, scale in scales.items()} | dict.fromkeys(names, 1.0)
    licences = [licence_of("adapter", file) for file in scales]
    licences += [licence_of("embedding", embedding.file) for embedding in embeddings]
    return with_more(model, attached, licences)


def _add_bundled(adapter: Adapter, model: LatentDiffusion) -> list[str]:
    """Add the embeddings in a LoRA's file and return their names; warn of tensors not used."""
    if adapter.left:
        message = (
            f"{adapter.name}: {len(adapter.left)} LoRA tensors target text encoders that this "
            "model does not have; they were ignored."
        )
        warnings.warn(message, Note, stacklevel=4)
    if not adapter.words:
        return []
    embeddings = {
        name: [vectors.view(-1, vectors.shape[-1])] for name, vectors in adapter.words.items()
    }
    return add_embeddings(model, embeddings)
