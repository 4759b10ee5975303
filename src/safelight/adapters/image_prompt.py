"""Pictures as prompts beside the text: IP-Adapter (arXiv 2308.06721) and its descendants.

The features of a picture from CLIP's image encoder become a few tokens. Every cross-attention has
keys and values of its own for them, and their attention is added to that of the text (eq. 5).
FaceID uses the vector of a face instead.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from safelight.adapters.image_tokens import (
    ImageFeature,
    ImageFeatures,
    LinearProjection,
    MlpProjection,
    Resampler,
)
from safelight.errors import BadInput
from safelight.nn.clip_vision import ImageEncoder
from safelight.types.networks import Condition, Conditioner, Prompt, Tokens

PROMPT_KEYS: Mapping[ImageFeature, str] = {
    "vector": "image_vector",
    "states": "image_states",
    "face": "face_vector",
}
"""By which key of ``given`` a prompt holds features that were computed before."""
VECTOR_ENCODERS = {1024: "OpenCLIP ViT-H/14", 1280: "OpenCLIP ViT-bigG/14", 768: "CLIP ViT-L/14"}
STATE_ENCODERS = {1280: "OpenCLIP ViT-H/14", 1664: "OpenCLIP ViT-bigG/14", 1024: "CLIP ViT-L/14"}
"""Which image encoders make vectors, and states, of these widths."""


@dataclass(frozen=True)
class Config:
    """``project`` makes tokens of features.

    ``widths`` are those of the attentions that attend to them, in the order of the file; ``bias``:
    whether their keys and values have biases (FLUX).
    """

    project: LinearProjection | MlpProjection | Resampler = field(default_factory=LinearProjection)
    widths: tuple[int, ...] = (320,)
    bias: bool = False

    def build(self) -> "ImagePrompt":
        """The adapter, freshly initialised."""
        return ImagePrompt(self)


@dataclass(frozen=True)
class AttentionTarget:
    """One of a denoiser's attentions: its ``index`` in the adapter's order, and its ``heads``."""

    index: int
    heads: int


class ImagePrompt(nn.Module):
    """Features of k pictures → tokens, with keys and values for each attention of a denoiser."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.project = config.project.build()
        wide = config.project.text_width
        layers = [nn.Linear(wide, 2 * width, config.bias) for width in config.widths]
        self.kv = cast("list[nn.Linear]", nn.ModuleList(layers))

    def forward(
        self, features: ImageFeatures, scale: Tensor, targets: Sequence[AttentionTarget]
    ) -> Tokens:
        """The tokens of ``features``, (b, k, …) each.

        ``scale`` (b,) multiplies their values: 0 is as if there were no adapter. ``targets``: the
        denoiser's attentions, in its order.
        """
        values = self.project(features).flatten(1, 2)  # (b, k · n, text_width)
        projected: list[Tensor] = []
        for target in targets:
            keys, scaled = (
                self.kv[target.index](values).unflatten(-1, (2, target.heads, -1)).unbind(2)
            )
            projected += [
                keys,
                scaled * scale[:, None, None, None].to(scaled),
            ]  # (b, k · n, heads, d) each
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, tuple(projected))


class ImagePromptConditioner(nn.Module):
    """A conditioner that also reads pictures.

    A prompt's ``given`` holds ``image``, (3, h, w) or (k, 3, h, w) in [-1, 1] or a list of such; or
    features computed before, whichever the adapter reads: ``image_vector`` (d) or (k, d),
    ``image_states`` (n, d) or (k, n, d), ``face_vector`` (d) or (k, d). ``image_scale`` is by
    default ``scale``.

    A prompt without any of them uses ``default_features``. Without those as well, and for negative
    prompts, a vector is zero and states are those of an empty picture, as in the originals.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        adapter: ImagePrompt,
        targets: Sequence[AttentionTarget],
        scale: float = 1.0,
        image_encoder: ImageEncoder | None = None,
        default_features: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.conditioner, self.adapter, self.targets = conditioner, adapter, tuple(targets)
        self.scale, self.image_encoder = scale, image_encoder
        self.null_states: Tensor | None = None
        features = self.features(default_features) if default_features else {}
        self.default_features = {PROMPT_KEYS[name]: tensor for name, tensor in features.items()}

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The inner condition with the pictures as one more stream.

        BadInput for pictures or features that the adapter cannot read.
        """
        features = [self.prompt_features(prompt) for prompt in prompts]
        return self._with_stream(self.conditioner(prompts), prompts, features)

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """The null condition of what ``only`` names; pictures are named ``image``."""
        kept = only is not None and "image" not in only
        condition = self.conditioner.null_condition(prompts, only)
        features = [
            self.prompt_features(prompt) if kept else self.null_features() for prompt in prompts
        ]
        return self._with_stream(condition, prompts, features)

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Fit the inner conditioner; the adapter needs no fitting."""
        self.conditioner.fit(prompts)

    def prompt_features(self, prompt: Prompt) -> dict[ImageFeature, Tensor]:
        """The features of a prompt's pictures, (k, …) each."""
        own = {"image", *PROMPT_KEYS.values()} & prompt.given.keys()
        given = prompt.given if own else self.default_features
        if prompt.given.get("negative") or not given:
            return self.null_features()
        return self.features(given)

    def features(self, given: Mapping[str, Any]) -> dict[ImageFeature, Tensor]:
        """The features that the adapter reads; BadInput if one is absent or of a wrong shape."""
        features: dict[ImageFeature, Tensor] = {}
        for feature, width in self.adapter.config.project.reads.items():
            key, value = PROMPT_KEYS[feature], given.get(PROMPT_KEYS[feature])
            if value is None and "image" in given and feature != "face":
                value = self.encode(feature, given["image"])
            if value is None:
                raise BadInput(_absent(feature, width))
            tensor, axes = torch.as_tensor(value), 2 if feature == "states" else 1
            if tensor.ndim not in (axes, axes + 1) or tensor.shape[-1] != width:
                raise BadInput(
                    f"{key}: this image prompt reads "
                    f"{feature if feature == 'states' else 'vectors'} of {width} numbers, got the "
                    f"shape {tuple(tensor.shape)}; compute it with the network that the adapter "
                    "was trained with."
                )
            features[feature] = tensor if tensor.ndim > axes else tensor[None]
        if len({len(tensor) for tensor in features.values()}) > 1:
            counts = ", ".join(
                f"{len(tensor)} of {PROMPT_KEYS[feature]}" for feature, tensor in features.items()
            )
            raise BadInput(f"an image prompt needs as many faces as pictures, got {counts}.")
        return features

    def null_features(self) -> dict[ImageFeature, Tensor]:
        """The features of no picture."""
        reads = self.adapter.config.project.reads
        if "states" in reads and self.null_states is None:
            if self.image_encoder is None:
                raise BadInput(
                    "this image prompt needs its image encoder even without a picture: "
                    f"{_add_encoder('states', reads)}."
                )
            self.null_states = self.image_encoder.null_states()
        return {
            feature: torch.zeros(1, width)
            if feature != "states" or self.null_states is None
            else self.null_states
            for feature, width in reads.items()
        }

    def encode(self, feature: ImageFeature, images: Any) -> Tensor:
        """A feature of pictures; BadInput without an image encoder, or for no pictures."""
        if self.image_encoder is None:
            reads = self.adapter.config.project.reads
            raise BadInput(
                f"this image prompt has no image encoder: {_add_encoder(feature, reads)}."
            )
        if isinstance(images, list | tuple) and images:
            return torch.cat([self.encode(feature, image) for image in images])
        if not isinstance(images, Tensor) or images.ndim not in (3, 4) or images.shape[-3] != 3:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise BadInput(
                f"image: wanted a tensor (3, h, w) or (k, 3, h, w) in [-1, 1], got {shape}."
            )
        batch = images if images.ndim == 4 else images[None]
        batch = batch.to(self.image_encoder.class_embedding.device)
        return (
            self.image_encoder.states(batch) if feature == "states" else self.image_encoder(batch)
        )

    def _with_stream(
        self,
        condition: Condition,
        prompts: Sequence[Prompt],
        features: Sequence[Mapping[ImageFeature, Tensor]],
    ) -> Condition:
        """The condition with the tokens of each prompt's pictures as one more stream."""
        counts = [len(next(iter(of_prompt.values()))) for of_prompt in features]
        if len(set(counts)) > 1:
            raise BadInput(f"the prompts of one batch need as many pictures each, got {counts}.")
        weight = self.adapter.kv[0].weight
        stacked = {
            feature: torch.stack([of_prompt[feature].to(weight) for of_prompt in features])
            for feature in features[0]
        }
        scales = torch.tensor(
            [float(prompt.given.get("image_scale", self.scale)) for prompt in prompts]
        )
        stream = self.adapter(stacked, scales.to(weight.device), self.targets)
        return replace(condition, streams=(*condition.streams, stream))


def fits(image_encoder: Any, reads: Mapping[ImageFeature, int]) -> bool:
    """Whether an image encoder of this configuration makes the features that an adapter reads."""
    return {"vector": image_encoder.projection, "states": image_encoder.width}.items() >= {
        (feature, width) for feature, width in reads.items() if feature != "face"
    }


def _add_encoder(feature: ImageFeature, reads: Mapping[ImageFeature, int]) -> str:
    """Which image encoder to add, and how."""
    width = reads[feature]
    output = "states" if feature == "states" else "a vector"
    known = STATE_ENCODERS if feature == "states" else VECTOR_ENCODERS
    name = known.get(width, f"one that makes {output} of {width} numbers")
    return (
        f"add the image encoder that it was trained with ({name}), as one of the model's files "
        "(-m) or as the folder image_encoder beside the adapter"
    )


def _absent(feature: ImageFeature, width: int) -> str:
    """The message for a feature that a prompt does not hold."""
    if feature == "face":
        return (
            "this image prompt reads the vector of a face, not a picture: no network that finds "
            f"faces is here; compute one of {width} numbers with InsightFace (buffalo_l, "
            "normed_embedding) and pass it as face_vector, or as a file."
        )
    return (
        "this image prompt reads a picture: pass image, or "
        f"{PROMPT_KEYS[feature]} computed from it."
    )
