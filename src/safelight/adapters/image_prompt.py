"""A picture as a prompt beside the text: IP-Adapter (arXiv 2308.06721).

A vector of the picture, made by CLIP's eye, becomes a few tokens; every cross-attention has keys and values for them of
its own, and what it hears of them is added to what it hears of the text (eq. 5).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.types import Bounded, Condition, Prompt, Tokens, Weighing, Wordy


@dataclass(frozen=True)
class Config:
    """A vector of ``picture_width`` becomes ``tokens`` of ``text_width``, which the cross-attentions hear: the width
    and the heads of each, in the denoiser's order."""

    picture_width: int = 1024
    text_width: int = 768
    tokens: int = 4
    layers: tuple[tuple[int, int], ...] = ((320, 8),)

    def build(self) -> "ImagePrompt":
        """The adapter, freshly initialised."""
        return ImagePrompt(self)


class ImagePrompt(nn.Module):
    """Vectors of pictures (b, k, picture_width) → a stream of k · ``tokens`` tokens, with keys and values for each
    cross-attention of the denoiser that it was made for."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.picture_width, config.tokens * config.text_width)
        self.norm = nn.LayerNorm(config.text_width)
        self.kv = nn.ModuleList(nn.Linear(config.text_width, 2 * width, bias=False) for width, _ in config.layers)

    def forward(self, vectors: Tensor, scale: Tensor) -> Tokens:
        """``scale`` (b,) is how much is added: 0 is as if the adapter were not there."""
        values = self.project(vectors).unflatten(-1, (self.config.tokens, -1))  # (b, k, tokens, text_width)
        values = self.norm(values).flatten(1, 2)
        projected: list[Tensor] = []
        for layer, (_, heads) in zip(self.kv, self.config.layers, strict=True):
            keys, answers = layer(values).unflatten(-1, (2, heads, -1)).unbind(2)  # (b, n, heads, d) each
            projected += [keys, answers * scale[:, None, None, None].to(answers)]
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, tuple(projected))


class WithPictures(nn.Module):
    """A conditioner that also reads ``given["image"]``, (3, h, w) or (k, 3, h, w) in [-1, 1], or, made of it before,
    ``given["image_vector"]``, (d) or (k, d); and ``given["image_scale"]``, by default ``scale``. Where there is no
    picture, or for the negative, the vector is zero, as in the original."""

    def __init__(
        self, conditioner: Weighing, adapter: ImagePrompt, scale: float = 1.0, eye: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conditioner, self.adapter, self.scale, self.eye = conditioner, adapter, scale, eye

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """What the conditioner says, and the pictures as one more stream; BadInput for vectors of another width."""
        condition = self.conditioner(prompts)
        return self.joined(condition, prompts, [self.vectors(prompt) for prompt in prompts])

    def nothing(self, prompts: Sequence[Prompt], only: Collection[str] | None = None) -> Condition:
        """Without what is named: ``image`` is the pictures' name."""
        kept = only is not None and "image" not in only
        condition = self.conditioner.nothing(prompts, only)
        seen = [self.vectors(prompt) for prompt in prompts]
        return self.joined(condition, prompts, seen if kept else [torch.zeros_like(one) for one in seen])

    def learn(self, prompts: Iterable[Prompt]) -> None:
        self.conditioner.learn(prompts)

    def at(self, prompt: Prompt, step: int, steps: int) -> Prompt:
        return self.conditioner.at(prompt, step, steps)

    def parts(self, prompt: Prompt) -> Sequence[tuple[Prompt, float]]:
        return self.conditioner.parts(prompt)

    def unread(self, prompt: Prompt) -> Sequence[str]:
        return self.conditioner.unread(prompt) if isinstance(self.conditioner, Bounded) else ()

    def check_word(self, name: str, vectors: Sequence[Tensor]) -> None:
        self._wordy().check_word(name, vectors)

    def add_word(self, name: str, vectors: Sequence[Tensor]) -> None:
        self._wordy().add_word(name, vectors)

    def remove_word(self, name: str) -> None:
        self._wordy().remove_word(name)

    def vectors(self, prompt: Prompt) -> Tensor:
        """The vectors of a prompt's pictures (k, d), one of zeros if there is none; a negative has only zeros."""
        wide = self.adapter.config.picture_width
        given = prompt.given.get("image_vector")
        if given is None and "image" in prompt.given:
            given = self.look(prompt.given["image"])
        if given is None:
            return torch.zeros(1, wide)
        vectors = torch.as_tensor(given, dtype=torch.float32).cpu()
        if vectors.ndim not in (1, 2) or vectors.shape[-1] != wide:
            raise BadInput(
                f"image_vector: this image prompt reads vectors of {wide} numbers, got the shape "
                f"{tuple(vectors.shape)}; take the picture's vector from the CLIP that the adapter was trained with."
            )
        vectors = vectors.reshape(-1, wide)
        return torch.zeros_like(vectors) if prompt.given.get("negative") else vectors

    def look(self, images: Tensor) -> Tensor:
        """The vectors of pictures; BadInput if there is no eye to see them."""
        if self.eye is None:
            raise BadInput("this image prompt has no eye: add the image encoder that it was trained with.")
        images = images if images.ndim == 4 else images[None]
        vectors: Tensor = self.eye(images.to(self.adapter.project.weight.device))
        return vectors

    def joined(self, condition: Condition, prompts: Sequence[Prompt], seen: Sequence[Tensor]) -> Condition:
        """The condition with the stream of these vectors."""
        if len({len(one) for one in seen}) > 1:
            raise BadInput(f"prompts of one batch want as many pictures each, got {[len(one) for one in seen]}.")
        weight = self.adapter.project.weight
        scales = torch.tensor([float(prompt.given.get("image_scale", self.scale)) for prompt in prompts])
        stream = self.adapter(torch.stack(list(seen)).to(weight), scales.to(weight.device))
        return replace(condition, streams=(*condition.streams, stream))

    def _wordy(self) -> Wordy:
        if not isinstance(self.conditioner, Wordy):
            raise BadInput("this model has no text towers that could read learned words.")
        return self.conditioner
