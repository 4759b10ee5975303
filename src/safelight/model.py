"""The assembly: an autoencoder, a conditioner, a denoiser and the process between them, with the model's card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from safelight.diffusion.process import Process
from safelight.errors import BadInput
from safelight.governance.licences import (
    PARTS,
    PartLicence,
    combined,
    licences_of_parts,
    warn_restricted,
)
from safelight.nn.clip_vision import ImageEncoder
from safelight.settings import Settings
from safelight.types.networks import Autoencoder, Conditioner, Denoiser
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents

Preview = tuple[tuple[float, ...], ...]
"""Red, green and blue as affine functions of a latent: the weights of its channels, then the constant."""


@dataclass(frozen=True)
class Card:
    """What a person wants to know of a model, kept with its weights."""

    name: str = "unnamed"
    summary: str = ""
    size: tuple[int, int] = (256, 256)  # native height and width, in pixels
    settings: Settings = field(default_factory=Settings)
    licence: str = "not stated"  # of the whole, in one line
    licences: tuple[
        PartLicence, ...
    ] = ()  # of each part and of all that stands on it; none: one for the whole
    data: tuple[Mapping[str, Any], ...] = ()  # the origin of each part's training data
    origin: Mapping[str, Any] = field(default_factory=dict)  # run, updates, versions, hardware
    preview: Preview = ()  # the autoencoder's, fitted after its training
    hash: str = ""  # of the files it was read from
    adapters: Mapping[str, float] = field(
        default_factory=dict
    )  # merged since, FILE=PICTURE around; with their scales


@dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """The parts of a model. One that a file lacks is None; ``complete`` says what to add."""

    autoencoder: Autoencoder | None = None
    conditioner: Conditioner | None = None
    denoiser: Denoiser | None = None
    process: Process | None = None
    card: Card = field(default_factory=Card)
    companions: Mapping[str, "LatentDiffusion"] = field(
        default_factory=dict
    )  # by what guidance asks it for: weak
    image_encoder: ImageEncoder | None = (
        None  # an image encoder, for adapters that prompt with pictures
    )

    def complete(self) -> "CompleteModel":
        """All parts, or BadInput that names the missing ones."""
        a, c, d, p = self.autoencoder, self.conditioner, self.denoiser, self.process
        if a is None or c is None or d is None or p is None:
            parts = {"autoencoder": a, "conditioner": c, "denoiser": d, "process": p}
            usual = self.card.origin.get("lacking", {})
            lacking = [name for name, part in parts.items() if part is None]
            missing = ", ".join(
                f"{one} (such as {usual[one]})" if one in usual else one for one in lacking
            )
            raise BadInput(
                f"the model {self.card.name!r} has no {missing}; name a file that holds it as well, load a model that "
                "does, or train it first."
            )
        return CompleteModel(
            a, c, d, p, self.card, {name: self._matching(name) for name in self.companions}
        )

    @property
    def licences(self) -> tuple[PartLicence, ...]:
        """The licence of each part that is here, and of all that stands on it."""
        parts = [name for name in PARTS if vars(self)[name] is not None]
        return licences_of_parts(self.card.licences, self.card.licence, self.card.name, parts)

    def _matching(self, name: str) -> "CompleteModel":
        """The model beside this one, of the same latents and noise: BadInput if they are others."""
        other = self.companions[name].complete()
        if other.process != self.process:
            raise BadInput(
                f"the {name} model must have the process of {self.card.name!r}, got {other.process} for "
                f"{other.card.name!r}: take an earlier or smaller model of the same training."
            )
        return other


def preview(card: Card, latents: Latents) -> Images:
    """What latents (b, c, *space) will roughly look like, a pixel each: images (b, 3, *space) in [-1, 1].

    It costs next to nothing beside decoding. BadInput if the card has no such map, or one of other latents.
    """
    if len(card.preview) != 3:
        raise BadInput(
            f"the model {card.name!r} has no preview map; train its autoencoder with this version."
        )
    weights = torch.tensor(card.preview, dtype=torch.float32, device=latents.device)  # (3, c + 1)
    if latents.shape[1] != weights.shape[1] - 1:
        raise BadInput(
            f"the preview map of {card.name!r} is for {weights.shape[1] - 1} latent channels, got {latents.shape[1]}."
        )
    colours = (
        torch.tensordot(latents.float(), weights[:, :-1], dims=([1], [1])) + weights[:, -1]
    )  # (b, *space, 3)
    return torch.movedim(colours, -1, 1).clamp(-1, 1)


def licensed(card: Card, licences: Sequence[PartLicence]) -> Card:
    """The card of what has these licences, one after the other, each once."""
    items = tuple(dict.fromkeys(licences))
    return replace(card, licences=items, licence=combined(items))


def with_more(
    model: LatentDiffusion, named: Mapping[str, float], licences: Sequence[PartLicence]
) -> LatentDiffusion:
    """The model on which small files stand, ``named`` with their scales, each of a licence of its own."""
    warn_restricted(licences)
    card = replace(model.card, adapters={**model.card.adapters, **named})
    return replace(model, card=licensed(card, [*model.licences, *licences]))


def module(part: object) -> nn.Module:
    """A part as the module that it is: protocols say what parts do, modules hold their weights."""
    assert isinstance(part, nn.Module), f"{type(part).__name__} is no module"
    return part


@dataclass(frozen=True, eq=False)
class CompleteModel:
    """A model of which no part is missing."""

    autoencoder: Autoencoder
    conditioner: Conditioner
    denoiser: Denoiser
    process: Process
    card: Card
    companions: Mapping[str, "CompleteModel"] = field(default_factory=dict)

    def latent_shape(self, count: int, height: int, width: int) -> Shape:
        """The latents of ``count`` pictures; BadInput with the nearest size if these parts cannot make it."""
        multiple = self.autoencoder.factor * self.denoiser.size_multiple
        if height % multiple or width % multiple:
            near = [max(1, round(side / multiple)) * multiple for side in (width, height)]
            raise BadInput(
                f"size: this model makes widths and heights that are multiples of {multiple}, got {width}×{height}; "
                f"the nearest is {near[0]}×{near[1]}."
            )
        return self.autoencoder.latent_shape((count, 3, height, width))
