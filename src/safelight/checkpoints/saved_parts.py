"""The parts of a model as other programs' layouts will hold them."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from safelight.autoencoders.kl import config as kl_config
from safelight.config import kind_of
from safelight.errors import BadInput, Note
from safelight.layouts import training_metadata
from safelight.layouts.detection import all_layouts
from safelight.layouts.families import Family, families, family_of
from safelight.layouts.key_mapping import Layout
from safelight.model import LatentDiffusion, module
from safelight.nn.text_models import decoder


class PartToWrite(NamedTuple):
    """A part, with its ``state`` by our names and what its configuration says of the whole model.

    ``part`` is denoiser, autoencoder, conditioner, towers (a text encoder, the one of that
    ``number``) or image_encoder. ``metadata`` are the size of the latents, or their scale, by the
    names of diffusers' configurations.
    """

    part: str
    number: int
    config: Any
    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of its configuration, as ``unet``."""
        return kind_of(self.config)


def parts_to_write(model: LatentDiffusion) -> tuple[Family | None, list[PartToWrite]]:
    """The family and all parts of a model; no family if it has no denoiser.

    BadInput if no family has such parts, or if there are none.
    """
    parts: list[PartToWrite] = []
    family = None
    if model.denoiser is not None:
        denoiser = module(model.denoiser)
        config = vars(denoiser)["config"]
        family = _family(model, config)
        if family is None:
            raise BadInput(
                f"no public layout holds a denoiser like this ({kind_of(config)}); "
                "save it as native."
            )
        sizes = _sizes(model, config)
        parts.append(PartToWrite("denoiser", 0, config, denoiser.state_dict(), sizes))
    if model.autoencoder is not None:
        parts.append(_autoencoder(module(model.autoencoder), family))
    if model.conditioner is not None and family is not None:
        parts += _conditioner(module(model.conditioner), family)
    if model.image_encoder is not None:
        encoder = model.image_encoder
        config, state = vars(encoder)["config"], encoder.state_dict()
        parts.append(PartToWrite("image_encoder", 0, config, state, {}))
    if not parts:
        raise BadInput("the model has no part that could be written.")
    return family, parts


def layout_of(name: str, part: PartToWrite) -> Layout:
    """The layout of that name for a part of this kind; BadInput if there is none."""
    kind = "tower" if part.part == "towers" else part.part
    for layout in all_layouts():
        if (layout.name, layout.part) == (name, kind) and kind_of(layout.example) == part.kind:
            return layout
    raise BadInput(
        f"the layout {name} has no {kind} of the kind {part.kind}; save the model as native."
    )


def text_encoder(model: LatentDiffusion, number: int) -> Any:
    """The text encoder of that number in a model's conditioner."""
    return vars(module(model.conditioner))["_modules"]["encoders"][number]


def _sizes(model: LatentDiffusion, config: Any) -> dict[str, int]:
    """The side of the latents, and the width in which sizes are embedded."""
    if kind_of(config) not in ("unet", "mmdit"):
        return {}
    factor = 8 if model.autoencoder is None else model.autoencoder.factor
    sizes = {"sample_size": model.card.size[0] // factor}
    if model.conditioner is not None:
        conditioner = vars(vars(module(model.conditioner))["config"])
        if "frequencies" in conditioner:
            sizes["addition_time_embed_dim"] = conditioner["frequencies"]
    return sizes


def _family(model: LatentDiffusion, config: Any) -> Family | None:
    """The family that the model was read as, or that its parts belong to.

    If the process is another, a family that is recognised by training metadata may have it.
    """
    kind = kind_of(config)
    markers: set[str] = set()
    if model.conditioner is not None:
        conditioner = vars(module(model.conditioner))["config"]
        encoders = vars(conditioner).get("encoders", ())
        markers = {kind_of(conditioner), *(kind_of(encoder.network) for encoder in encoders)}
    family = families().get(str(model.card.origin.get("family")))
    family = family or family_of(kind, config, markers)
    if family is None or model.process in (None, family.process()):
        return family
    related = [
        other
        for other in families().values()
        if other.fits.get("beside") in training_metadata.NAMES and other.text == family.text
    ]
    matching = [
        other
        for other in related
        if other.knows(kind, config, training_metadata.NAMES) and other.process() == model.process
    ]
    return matching[-1] if matching else family


def _autoencoder(autoencoder: nn.Module, family: Family | None) -> PartToWrite:
    """An autoencoder with one scale for all latent channels, as most layouts require.

    A scale for each channel is folded into the 1×1 convolutions next to the latents: the same
    pictures, except for rounding.
    """
    config, state = vars(autoencoder)["config"], autoencoder.state_dict()
    mean, deviation = state.get("scale.mean"), state.get("scale.deviation")
    if mean is None or deviation is None:
        return PartToWrite("autoencoder", 0, config, state, {})
    if bool((mean == mean[0]).all() and (deviation == deviation[0]).all()):
        scale = {"scaling_factor": 1 / float(deviation[0]), "shift_factor": float(mean[0])}
        scale = {key: round(value, 6) for key, value in scale.items()}
        return PartToWrite("autoencoder", 0, config, state, scale)
    if family is not None and training_metadata.LATENTS[0] in family.single.get("marks", ()):
        statistics = {
            "latents_mean": [round(value, 6) for value in mean.tolist()],
            "latents_std": [round(value, 6) for value in (deviation * family.scale).tolist()],
        }
        metadata = {"scaling_factor": family.scale, **statistics}
        return PartToWrite("autoencoder", 0, config, state, metadata)
    if not isinstance(config, kl_config.Config) or not config.quant:
        raise BadInput(
            "latents with a scale for each channel can be written for kl with quant convolutions "
            "only."
        )
    metadata = {"scaling_factor": 1.0, "shift_factor": 0.0}
    return PartToWrite("autoencoder", 0, config, fold_scale(state), metadata)


def fold_scale(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ``kl`` autoencoder with the latents' scale in its quant convolutions.

    The encoder's then gives standardised latents, and the decoder's takes them.
    """
    state = dict(state)
    mean, deviation = state["scale.mean"].double(), state["scale.deviation"].double()
    # Rows of the mean, then of the log-variance.
    factors = torch.cat([1 / deviation, torch.ones_like(deviation)])
    shift = torch.cat([-mean / deviation, -2 * deviation.log()])
    weight, dtype = state["quant.weight"].double(), state["quant.weight"].dtype
    state["quant.weight"] = (weight * factors[:, None, None, None]).to(dtype)
    state["quant.bias"] = (state["quant.bias"].double() * factors + shift).to(dtype)
    weight, bias = state["post_quant.weight"].double(), state["post_quant.bias"].double()
    state["post_quant.weight"] = (weight * deviation[None, :, None, None]).to(dtype)
    state["post_quant.bias"] = (bias + weight[:, :, 0, 0] @ mean).to(dtype)
    return state


def _conditioner(conditioner: nn.Module, family: Family) -> list[PartToWrite]:
    """The conditioner as one part, or each of its text encoders; nothing if it needs no file."""
    if "conditioner" in family.single:
        config, state = vars(conditioner)["config"], conditioner.state_dict()
        return [PartToWrite("conditioner", 0, config, state, {})]
    if family.conditioner:
        return []
    kind = kind_of(vars(conditioner)["config"])
    if not family.text or kind != "text-encoders":
        raise BadInput(
            f"files of {family.title} hold no conditioner of the kind {kind}; "
            "save the model as native."
        )
    parts = []
    for number, encoder in enumerate(vars(conditioner)["_modules"]["encoders"]):
        network = encoder.config.network
        if isinstance(network, decoder.Config):
            message = (
                f"a file of {family.title} is written without its text encoder, of which only a "
                "part is kept here: take it from where it was published."
            )
            warnings.warn(message, Note, stacklevel=5)
        elif encoder.network is not None:
            state = encoder.network.state_dict()
            parts.append(PartToWrite("towers", number, network, state, {}))
    return parts
