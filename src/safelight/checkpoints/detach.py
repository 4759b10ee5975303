"""A model without what is attached around its parts: control, image prompts."""

from dataclasses import replace

from safelight.adapters.image_prompt import ImagePromptConditioner
from safelight.card import licensed
from safelight.errors import BadInput
from safelight.model import LatentDiffusion
from safelight.nn.control import innermost

ATTACHED = ("control", "image prompt", "image_encoder")


def detach(model: LatentDiffusion) -> LatentDiffusion:
    """The model without control and image prompts.

    What is merged into its weights stays, and so does that on its card.
    """
    denoiser, conditioner = model.denoiser, model.conditioner
    denoiser = None if denoiser is None else innermost(denoiser)
    while isinstance(conditioner, ImagePromptConditioner):
        conditioner = conditioner.conditioner
    if denoiser is model.denoiser and conditioner is model.conditioner:
        return model
    merged = {name: scale for name, scale in model.card.adapters.items() if "=" not in name}
    licences = [licence for licence in model.licences if licence.part not in ATTACHED]
    card = licensed(replace(model.card, adapters=merged), licences)
    return replace(model, denoiser=denoiser, conditioner=conditioner, card=card)


def require_detached(model: LatentDiffusion) -> None:
    """BadInput if files of models cannot hold all that the model is made of."""
    bare = detach(model)
    attached = ["control"] if bare.denoiser is not model.denoiser else []
    attached += ["an image prompt"] if bare.conditioner is not model.conditioner else []
    if attached:
        raise BadInput(
            f"{model.card.name!r} has {' and '.join(attached)} attached, which no file of a model "
            "holds: remove it first, save(detach(model), …) with detach of "
            "safelight.checkpoints.detach, and keep its own file."
        )
    parts = (model.autoencoder, model.conditioner, model.denoiser)
    if model.image_encoder is not None and any(part is not None for part in parts):
        raise BadInput(
            f"{model.card.name!r} has an image encoder, which no file of a model holds: "
            "leave it out, and keep its own file."
        )
