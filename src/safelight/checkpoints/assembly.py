"""Building the model of a plan: each part with the weights of its file."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from safelight.checkpoints.plan import LoadPlan, encoder_kinds
from safelight.checkpoints.state_dicts import load_strictly
from safelight.conditioners._encoder import PromptEncoder
from safelight.config import Slot
from safelight.errors import BadInput, Note
from safelight.layouts import text_families
from safelight.layouts.detection import DetectedPart
from safelight.layouts.families import Family
from safelight.model import LatentDiffusion
from safelight.weights.memory import AS_STORED, LoadOptions
from safelight.weights.meta import meta_init
from safelight.weights.progress import ByteProgress, ProgressCallback, no_progress


def assemble(
    plan: LoadPlan, options: LoadOptions = AS_STORED, progress: ProgressCallback = no_progress
) -> LatentDiffusion:
    """The model of a plan, its weights read with these options.

    A part that no file holds is None.
    """
    if "image prompt" in plan.parts:
        raise BadInput(
            f"{plan.parts['image prompt'].where} is an image prompt, no part of a model: name it "
            "with a picture as an option of a model (--image-prompt FILE=PICTURE)."
        )
    if "control" in plan.parts:
        message = (
            f"{plan.parts['control'].where} is left out: it controls by a picture; "
            "name both with --control."
        )
        warnings.warn(message, Note, stacklevel=2)
    plan = plan.read_as(replace(options, count=ByteProgress("reading", plan.bytes, progress)))
    built: dict[str, Any] = {
        name: build_part(plan.parts[name])
        for name in ("denoiser", "conditioner", "image_encoder")
        if name in plan.parts
    }
    if "autoencoder" in plan.parts:
        built["autoencoder"] = _autoencoder(plan)
    if "conditioner" not in built:
        built["conditioner"] = _conditioner(plan)
    return LatentDiffusion(**built, process=plan.process, card=plan.card)


def build_part(part: DetectedPart, extra: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A part with the weights of its file, in their precision.

    ``extra``: tensors that files of this layout do not hold, by our names. Raises BadInput if
    names or shapes do not fit.
    """
    for name in part.again:
        if not part.again[name].equal(part.weights[name]):
            raise BadInput(
                f"{part.where} is in its file twice, and {name} differs; remove one of the two."
            )
    module: nn.Module = meta_init(part.config.build)
    mapping = part.layout.table(part.config)
    wanted = module.state_dict()
    state = _computed(wanted)
    state |= {name: tensor for name, tensor in (extra or {}).items() if name in wanted}
    state |= mapping.to_ours(part.weights, wanted, part.where)
    load_strictly(module, state, part.where, assign=True)
    return module


def _autoencoder(plan: LoadPlan) -> nn.Module:
    """The autoencoder, with the statistics of its latents."""
    part = plan.parts["autoencoder"]
    shape = (part.config.latent_channels,)
    statistics = {"scale.mean": plan.mean, "scale.deviation": plan.deviation}
    extra = {
        name: torch.tensor(values).expand(shape).clone() for name, values in statistics.items()
    }
    return build_part(part, extra)


def _conditioner(plan: LoadPlan) -> nn.Module | None:
    """The conditioner, if it is made of text encoders or needs no file."""
    denoiser, family = plan.parts.get("denoiser"), plan.family
    if plan.encoders and family and family.text:
        return _text_encoders(family, plan.encoders, denoiser)
    if denoiser and family and family.conditioner:
        return _without_weights(family.conditioner, denoiser.config)
    return None


def _without_weights(options: Mapping[str, Any], denoiser: Any) -> nn.Module:
    """A conditioner that no file holds, for as many classes as the denoiser has."""
    classes = {"classes": vars(denoiser)["classes"]} if "numeric_labels" in options else {}
    module: nn.Module = Slot("conditioners").read({**options, **classes}).build()
    return module


def _text_encoders(
    family: Family, parts: Sequence[DetectedPart], denoiser: DetectedPart | None
) -> nn.Module | None:
    """The conditioner of these text encoders; None if one that the family needs is missing.

    A T5 may be missing if other encoders give tokens as well.
    """
    ordered = _in_order(family, parts)
    if ordered is None:
        return None
    text_width = 4096 if denoiser is None else denoiser.config.text_width
    networks = [None if part is None else part.config for part in ordered]
    config = text_families.joined(family.text, networks, text_width)
    if all(encoder.missing for encoder in config.encoders if encoder.group is not None):
        return None
    if config.size_conditions and denoiser is not None:
        # The pooled vectors and the embedded sizes fill the denoiser's vector exactly.
        pooled = sum(
            encoder.network.projection
            for encoder in config.encoders
            if encoder.pooled == "projected"
        )
        numbers = sum(1 if name == "aesthetic_score" else 2 for name in config.size_conditions)
        frequencies = (denoiser.config.vector_width - pooled) // numbers
        config = replace(config, frequencies=frequencies)
    module = meta_init(config.build)
    encoders = cast("list[PromptEncoder]", module.encoders)
    state = _computed(module.state_dict())
    for number, part in enumerate(ordered):
        if part is not None:
            state |= _encoder_state(f"encoders.{number}", encoders[number], part)
    where = " and ".join(part.where for part in ordered if part is not None)
    load_strictly(module, state, where, assign=True)
    return module


def _in_order(family: Family, parts: Sequence[DetectedPart]) -> list[DetectedPart | None] | None:
    """The text encoders in the family's order, None for a T5 that is missing.

    None if another is missing. Of two of the same kind the narrower comes first. BadInput for one
    that the family does not have.
    """
    remaining = sorted(parts, key=lambda part: int(part.config.width))
    ordered: list[DetectedPart | None] = []
    for kind in encoder_kinds(family):
        part = next((part for part in remaining if part.kind == kind), None)
        ordered.append(part)
        if part is not None:
            remaining.remove(part)
    if remaining:
        raise BadInput(
            f"{remaining[0].where} is a text encoder that {family.title} does not have; "
            "leave it out."
        )
    kinds = text_families.kinds(family.text)
    missing = [kind for kind, part in zip(kinds, ordered, strict=True) if part is None]
    return None if any(kind != "t5" for kind in missing) else ordered


def _encoder_state(prefix: str, encoder: PromptEncoder, part: DetectedPart) -> dict[str, Tensor]:
    """The state of one text encoder, by its names in the conditioner."""
    assert encoder.network is not None
    if part.tokenizer and encoder.config.tokenizer != "ids":
        encoder.tokenizer.load_files(part.tokenizer, part.where)
    mapping = part.layout.table(part.config)
    tensors = mapping.to_ours(part.weights, encoder.network.state_dict(), part.where)
    state = {f"{prefix}.network.{name}": tensor for name, tensor in tensors}
    return {**state, f"{prefix}.tokenizer._extra_state": encoder.tokenizer.get_extra_state()}


def _computed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a module on the meta device has computed already."""
    return {name: tensor for name, tensor in state.items() if tensor.device.type != "meta"}
