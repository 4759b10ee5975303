"""A model: autoencoder, conditioner, denoiser and diffusion process, with its card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from safelight.card import Card, licensed
from safelight.diffusion.process import Process
from safelight.errors import BadInput
from safelight.governance.licences import (
    PARTS,
    PartLicence,
    licences_of_parts,
    warn_restricted,
)
from safelight.types.networks import Autoencoder, Conditioner, Denoiser
from safelight.types.shapes import Shape
from safelight.types.tensors import Images, Latents


@dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """The parts of a model. A part that is missing is None; ``complete`` says what to add.

    ``companions`` are other models that guidance uses, such as the weaker one of autoguidance,
    ``weak``. ``image_encoder`` is for adapters that prompt with pictures.
    """

    autoencoder: Autoencoder | None = None
    conditioner: Conditioner | None = None
    denoiser: Denoiser | None = None
    process: Process | None = None
    card: Card = field(default_factory=Card)
    companions: Mapping[str, "LatentDiffusion"] = field(default_factory=dict)
    image_encoder: Any = None  # an ImageEncoder, whose module is imported where one is used

    def complete(self) -> "CompleteModel":
        """All parts, or BadInput that names the missing ones."""
        a, c, d, p = self.autoencoder, self.conditioner, self.denoiser, self.process
        if a is None or c is None or d is None or p is None:
            parts = {"autoencoder": a, "conditioner": c, "denoiser": d, "process": p}
            usual = self.card.origin.get("lacking", {})
            lacking = [name for name, part in parts.items() if part is None]
            missing = ", ".join(
                f"{name} (such as {usual[name]})" if name in usual else name for name in lacking
            )
            raise BadInput(
                f"the model {self.card.name!r} has no {missing}; name a file that holds it as "
                "well, load a model that does, or train it first."
            )
        return CompleteModel(
            a, c, d, p, self.card, {name: self._companion(name) for name in self.companions}
        )

    @property
    def licences(self) -> tuple[PartLicence, ...]:
        """The licence of each part that is here, and of everything attached to it."""
        parts = [name for name in PARTS if vars(self)[name] is not None]
        return licences_of_parts(self.card.licences, self.card.licence, self.card.name, parts)

    def _companion(self, name: str) -> "CompleteModel":
        """A companion; BadInput if its latents or its noise are not those of this model."""
        other = self.companions[name].complete()
        if other.process != self.process:
            raise BadInput(
                f"the {name} model must have the process of {self.card.name!r}, got "
                f"{other.process} for {other.card.name!r}: take an earlier or smaller model of the "
                "same training."
            )
        return other


def preview(card: Card, latents: Latents) -> Images:
    """A rough preview of latents (b, c, *space): images (b, 3, *space) in [-1, 1].

    A latent becomes a pixel, which is far faster than decoding. BadInput if the card has no preview
    map, or one for other latents.
    """
    if len(card.preview) != 3:
        raise BadInput(
            f"the model {card.name!r} has no preview map; train its autoencoder with this version."
        )
    weights = torch.tensor(card.preview, dtype=torch.float32, device=latents.device)  # (3, c + 1)
    if latents.shape[1] != weights.shape[1] - 1:
        raise BadInput(
            f"the preview map of {card.name!r} is for {weights.shape[1] - 1} latent channels, "
            f"got {latents.shape[1]}."
        )
    colours = (
        torch.tensordot(latents.float(), weights[:, :-1], dims=([1], [1])) + weights[:, -1]
    )  # (b, *space, 3)
    return torch.movedim(colours, -1, 1).clamp(-1, 1)


def with_more(
    model: LatentDiffusion, named: Mapping[str, float], licences: Sequence[PartLicence]
) -> LatentDiffusion:
    """The model with attached files, ``named`` with their scales, each with its own licence."""
    warn_restricted(licences)
    card = replace(model.card, adapters={**model.card.adapters, **named})
    return replace(model, card=licensed(card, [*model.licences, *licences]))


def module(part: object) -> nn.Module:
    """A part as a module: protocols say what parts do, modules hold their weights."""
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

    def latent_shape(self, count: int, size: Shape) -> Shape:
        """The shape of the latents of ``count`` samples of this ``size``, as height and width.

        BadInput, with the nearest size, if this model cannot make it.
        """
        multiple = self.autoencoder.factor * self.denoiser.size_multiple
        if any(side % multiple for side in size):
            nearest = [max(1, round(side / multiple)) * multiple for side in size]
            raise BadInput(
                "size: this model makes widths and heights that are multiples of "
                f"{multiple}, got {_size(size)}; the nearest is {_size(nearest)}."
            )
        return self.autoencoder.latent_shape((count, 3, *size))


def _size(sides: Sequence[int]) -> str:
    """A size as people write it, the width first."""
    return "×".join(str(side) for side in reversed(sides))
