"""What stands around the parts of a model, and the model without it: control, image prompts."""

from dataclasses import replace

from safelight.adapters.image_prompt import ImagePromptConditioner
from safelight.errors import BadInput
from safelight.model import LatentDiffusion, licensed
from safelight.nn.control import innermost


def plain(model: LatentDiffusion) -> LatentDiffusion:
    """The model without control and image prompts; what is merged into its weights stays, and so do these."""
    denoiser, conditioner = model.denoiser, model.conditioner
    denoiser = None if denoiser is None else innermost(denoiser)
    while isinstance(conditioner, ImagePromptConditioner):
        conditioner = conditioner.conditioner
    if denoiser is model.denoiser and conditioner is model.conditioner:
        return model
    merged = {name: scale for name, scale in model.card.adapters.items() if "=" not in name}
    licences = [
        one
        for one in model.licences
        if one.part not in ("control", "image prompt", "image_encoder")
    ]
    card = licensed(replace(model.card, adapters=merged), licences)
    return replace(model, denoiser=denoiser, conditioner=conditioner, card=card)


def require_detached(model: LatentDiffusion) -> None:
    """BadInput if the model is more than files of models hold."""
    bare = plain(model)
    around = ["control"] if bare.denoiser is not model.denoiser else []
    around += ["an image prompt"] if bare.conditioner is not model.conditioner else []
    if around:
        raise BadInput(
            f"{model.card.name!r} has {' and '.join(around)} around it, which no file of a model holds: take that off "
            "first, save(plain(model), …) with plain of safelight.checkpoints.detach, and keep its file beside."
        )
    others = (model.autoencoder, model.conditioner, model.denoiser)
    if model.image_encoder is not None and any(one is not None for one in others):
        raise BadInput(
            f"{model.card.name!r} has an image encoder beside it, which no file of a model holds: leave it out, and "
            "keep its file."
        )
