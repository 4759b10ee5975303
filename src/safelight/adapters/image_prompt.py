"""A picture as a prompt beside the text: IP-Adapter (arXiv 2308.06721) and its descendants.

What CLIP's eye sees of the picture becomes a few tokens; every cross-attention has keys and values for them of its own,
and what it hears of them is added to what it hears of the text (eq. 5). FaceID's read a vector of a face instead.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from safelight.adapters.image_tokens import Each, Resampler, Seen, Sight, Single
from safelight.errors import BadInput
from safelight.nn.clip_vision import ImageEncoder
from safelight.types.networks import Condition, Conditioner, Prompt, Tokens

GIVEN: Mapping[Sight, str] = {
    "vector": "image_vector",
    "states": "image_states",
    "face": "face_vector",
}
"""What a prompt gives by which name, made of its pictures before."""
IMAGE_ENCODERS = {1024: "OpenCLIP ViT-H/14", 1280: "OpenCLIP ViT-bigG/14", 768: "CLIP ViT-L/14"}
STATES = {1280: "OpenCLIP ViT-H/14", 1664: "OpenCLIP ViT-bigG/14", 1024: "CLIP ViT-L/14"}
"""Whose vectors, and whose states, are so wide."""


@dataclass(frozen=True)
class Config:
    """``project`` makes tokens of what is seen; ``widths``: how wide each attention is that hears them, in the order of
    the file. ``bias``: whether their keys and values have biases (FLUX)."""

    project: Single | Each | Resampler = field(default_factory=Single)
    widths: tuple[int, ...] = (320,)
    bias: bool = False

    def build(self) -> "ImagePrompt":
        """The adapter, freshly initialised."""
        return ImagePrompt(self)


@dataclass(frozen=True)
class Place:
    """Where one of a denoiser's attentions finds its keys and values: ``number`` in the adapter's order, and its
    ``heads``."""

    number: int
    heads: int


class ImagePrompt(nn.Module):
    """What is seen of k pictures → a stream of their tokens, with keys and values for each attention of a denoiser."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.project = config.project.build()
        wide = config.project.text_width
        layers = [nn.Linear(wide, 2 * width, config.bias) for width in config.widths]
        self.kv = cast("list[nn.Linear]", nn.ModuleList(layers))

    def forward(self, seen: Seen, scale: Tensor, places: Sequence[Place]) -> Tokens:
        """``seen``: (b, k, …) each. ``scale`` (b,) is how much is added: 0 is as if the adapter were not there.
        ``places``: the denoiser's attentions, in its order."""
        values = self.project(seen).flatten(1, 2)  # (b, k · n, text_width)
        projected: list[Tensor] = []
        for place in places:
            keys, answers = (
                self.kv[place.number](values).unflatten(-1, (2, place.heads, -1)).unbind(2)
            )
            projected += [
                keys,
                answers * scale[:, None, None, None].to(answers),
            ]  # (b, k · n, heads, d) each
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, tuple(projected))


class WithPictures(nn.Module):
    """A conditioner that also reads pictures: of a prompt's ``given`` ``image``, (3, h, w) or (k, 3, h, w) in [-1, 1],
    or a list of such; or, made of it before, ``image_vector`` (d) or (k, d), ``image_states`` (n, d) or (k, n, d),
    ``face_vector`` (d) or (k, d); whichever the adapter reads. ``image_scale`` is by default ``scale``.

    A prompt that gives none of them is given those ``shown``. Where there is no picture, or for the negative, a vector
    is zero and states are those of an empty picture, as in the originals.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        adapter: ImagePrompt,
        places: Sequence[Place],
        scale: float = 1.0,
        image_encoder: ImageEncoder | None = None,
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.conditioner, self.adapter, self.places = conditioner, adapter, tuple(places)
        self.scale, self.image_encoder = scale, image_encoder
        self.empty: Tensor | None = None
        self.shown = {GIVEN[sight]: one for sight, one in self.seen(shown).items()} if shown else {}

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """What the conditioner says, and the pictures as one more stream; BadInput for what the adapter cannot read."""
        return self.joined(
            self.conditioner(prompts), prompts, [self.read(prompt) for prompt in prompts]
        )

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """Without what is named: ``image`` is the pictures' name."""
        kept = only is not None and "image" not in only
        condition = self.conditioner.null_condition(prompts, only)
        return self.joined(
            condition, prompts, [self.read(one) if kept else self.nobody() for one in prompts]
        )

    def fit(self, prompts: Iterable[Prompt]) -> None:
        self.conditioner.fit(prompts)

    def read(self, prompt: Prompt) -> dict[Sight, Tensor]:
        """What is seen for a prompt, (k, …) each."""
        given = prompt.given if {"image", *GIVEN.values()} & prompt.given.keys() else self.shown
        return self.nobody() if prompt.given.get("negative") or not given else self.seen(given)

    def seen(self, given: Mapping[str, Any]) -> dict[Sight, Tensor]:
        """What the adapter reads, of what is given. BadInput if there is too little, or it is of another shape."""
        found: dict[Sight, Tensor] = {}
        for sight, wide in self.adapter.config.project.reads.items():
            name, one = GIVEN[sight], given.get(GIVEN[sight])
            if one is None and "image" in given and sight != "face":
                one = self.look(sight, given["image"])
            if one is None:
                raise BadInput(_lacking(sight, wide))
            one, axes = torch.as_tensor(one), 2 if sight == "states" else 1
            if one.ndim not in (axes, axes + 1) or one.shape[-1] != wide:
                raise BadInput(
                    f"{name}: this image prompt reads {sight if sight == 'states' else 'vectors'} of {wide} numbers, "
                    f"got the shape {tuple(one.shape)}; make it with the network that the adapter was trained with."
                )
            found[sight] = one if one.ndim > axes else one[None]
        if len({len(one) for one in found.values()}) > 1:
            counts = ", ".join(f"{len(one)} of {GIVEN[sight]}" for sight, one in found.items())
            raise BadInput(f"an image prompt wants as many faces as pictures, got {counts}.")
        return found

    def nobody(self) -> dict[Sight, Tensor]:
        """What is seen where there is no picture."""
        reads = self.adapter.config.project.reads
        if "states" in reads and self.empty is None:
            if self.image_encoder is None:
                raise BadInput(
                    f"this image prompt is told of no picture by its eye, too: {_wanted('states', reads)}."
                )
            self.empty = self.image_encoder.null_states()
        return {
            sight: torch.zeros(1, wide) if sight != "states" or self.empty is None else self.empty
            for sight, wide in reads.items()
        }

    def look(self, sight: Sight, images: Any) -> Tensor:
        """What the eye sees of pictures; BadInput if there is no eye, or if they are none."""
        if self.image_encoder is None:
            raise BadInput(
                f"this image prompt has no eye: {_wanted(sight, self.adapter.config.project.reads)}."
            )
        if isinstance(images, list | tuple) and images:
            return torch.cat([self.look(sight, one) for one in images])
        if not isinstance(images, Tensor) or images.ndim not in (3, 4) or images.shape[-3] != 3:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise BadInput(
                f"image: wanted a tensor (3, h, w) or (k, 3, h, w) in [-1, 1], got {shape}."
            )
        images = (images if images.ndim == 4 else images[None]).to(
            self.image_encoder.class_embedding.device
        )
        return (
            self.image_encoder.states(images) if sight == "states" else self.image_encoder(images)
        )

    def joined(
        self,
        condition: Condition,
        prompts: Sequence[Prompt],
        seen: Sequence[Mapping[Sight, Tensor]],
    ) -> Condition:
        """The condition with the stream of what was seen for each prompt."""
        counts = [len(next(iter(one.values()))) for one in seen]
        if len(set(counts)) > 1:
            raise BadInput(f"prompts of one batch want as many pictures each, got {counts}.")
        weight = self.adapter.kv[0].weight
        stacked = {sight: torch.stack([one[sight].to(weight) for one in seen]) for sight in seen[0]}
        scales = torch.tensor(
            [float(prompt.given.get("image_scale", self.scale)) for prompt in prompts]
        )
        stream = self.adapter(stacked, scales.to(weight.device), self.places)
        return replace(condition, streams=(*condition.streams, stream))


def fits(image_encoder: Any, reads: Mapping[Sight, int]) -> bool:
    """Whether an eye of this configuration sees what an adapter reads."""
    return {"vector": image_encoder.projection, "states": image_encoder.width}.items() >= {
        (sight, wide) for sight, wide in reads.items() if sight != "face"
    }


def _wanted(sight: Sight, reads: Mapping[Sight, int]) -> str:
    """Which eye is to be added, in words."""
    wide = reads[sight]
    made = "states" if sight == "states" else "a vector"
    name = (STATES if sight == "states" else IMAGE_ENCODERS).get(
        wide, f"one that makes {made} of {wide} numbers"
    )
    return (
        f"add the image encoder that it was trained with ({name}), as one of the model's files (-m) or as the folder "
        "image_encoder beside the adapter"
    )


def _lacking(sight: Sight, wide: int) -> str:
    """What a prompt must give, in words."""
    if sight == "face":
        return (
            f"this image prompt reads the vector of a face, not a picture: no network that finds faces is here; "
            f"make one of {wide} numbers with InsightFace (buffalo_l, normed_embedding) and give it as face_vector, or "
            "as a file."
        )
    return f"this image prompt reads a picture: give image, or {GIVEN[sight]} made of it before."
