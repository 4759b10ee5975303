"""The model card: what a person wants to know of a model. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from safelight.governance.licences import PartLicence, combined
from safelight.settings import Settings

Preview = tuple[tuple[float, ...], ...]
"""Red, green and blue as affine functions of a latent: a weight for each channel, then the
constant."""


@dataclass(frozen=True)
class Card:
    """What a person wants to know of a model, kept with its weights.

    ``size`` is the native height and width in pixels. ``licence`` is that of the whole, in one
    line; ``licences`` are those of each part and attachment (none: one for the whole). ``data`` is
    the origin of each part's training data; ``origin`` the run, updates, versions and hardware, or
    what is known of the files of another program. ``preview`` is fitted after an autoencoder's
    training. ``hash`` is that of the files it was read from. ``adapters`` are the scales of what
    was attached since: LoRA by name, pictures as FILE=PICTURE.
    """

    name: str = "unnamed"
    summary: str = ""
    size: tuple[int, int] = (256, 256)
    settings: Settings = field(default_factory=Settings)
    licence: str = "not stated"
    licences: tuple[PartLicence, ...] = ()
    data: tuple[Mapping[str, Any], ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    preview: Preview = ()
    hash: str = ""
    adapters: Mapping[str, float] = field(default_factory=dict)


def licensed(card: Card, licences: Sequence[PartLicence]) -> Card:
    """The card with these licences, in order and without duplicates."""
    items = tuple(dict.fromkeys(licences))
    return replace(card, licences=items, licence=combined(items))
