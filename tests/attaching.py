"""Attaching files to a model by the texts of the command line, for tests."""

from safelight.attachments import attach
from safelight.attachments.specs import ControlSpec, EmbeddingSpec, ImagePromptSpec, LoraSpec


def with_loras(model, loras, embeddings=()):
    return attach(
        model,
        loras=[LoraSpec.parse(text) for text in loras],
        embeddings=[EmbeddingSpec.parse(text) for text in embeddings],
    )


def with_control(model, text, width=None, height=None):
    return attach(model, controls=[ControlSpec.parse(text)], size=(width, height))


def with_pictures(model, text, hints=None):
    return attach(model, image_prompts=[ImagePromptSpec.parse(text)], hints=hints)
