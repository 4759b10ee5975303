"""Text encoders that others trained, CLIP's and T5's among them, joined as a model family does.

One encoder (Stable Diffusion 1 and 2), two side by side with the picture's size (SDXL, arXiv
2307.01952), two beside a third (Stable Diffusion 3, arXiv 2403.03206), one for tokens and one for
the vector (FLUX.1): all are configurations.
"""

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.conditioners._encoder import EncoderConfig, PromptEncoder
from safelight.errors import BadInput, Note, unknown
from safelight.nn.embeddings import sinusoidal
from safelight.prompting.prompts import beyond_max_length, emphasis, weighted_sections
from safelight.tokenization.chunks import Section, quote
from safelight.types.networks import Condition, Prompt, Tokens

SizeCondition = Literal["original_size", "crop", "target_size", "aesthetic_score"]


@dataclass(frozen=True)
class Config:
    """The encoders, and how their outputs are joined.

    ``encoders`` of one group are concatenated along features; groups are concatenated along the
    sequence, narrow ones padded with zeros. The vector is that of each pooled encoder, then
    ``size_conditions`` (SDXL's micro-conditioning) as sinusoids of ``frequencies`` a number.

    ``native_size``: the height and width assumed for a prompt without a size. ``null_prompt``: the
    encoding of the empty text, or zeros (SDXL's base model; diffusers:
    ``force_zeros_for_empty_prompt``).
    """

    encoders: tuple[EncoderConfig, ...] = (EncoderConfig(),)
    size_conditions: tuple[SizeCondition, ...] = ()
    frequencies: int = 256
    native_size: tuple[int, int] = (1024, 1024)
    null_prompt: Literal["encoded", "zeros"] = "encoded"

    def __post_init__(self) -> None:
        if all(encoder.group is None for encoder in self.encoders):
            raise BadInput(
                "at least one text encoder must have a group, "
                "so that there are tokens to attend to."
            )

    def build(self) -> "TextEncoders":
        """The encoders, freshly initialised; nothing is downloaded."""
        return TextEncoders(self)


class TextEncoders(nn.Module):
    """The prompts' texts → ``tokens`` (b, n, width) and, if anything is pooled, ``vector`` (b, d).

    Of ``given`` it reads ``original_size``, ``crop`` (top, left), ``target_size`` and
    ``aesthetic_score``, heights first; ``picture_size``, the default of both sizes; ``negative``;
    and ``emphasis``, what brackets do.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList(PromptEncoder(encoder) for encoder in config.encoders)
        self.warned_missing = False

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Nothing: the vocabularies are those that the encoders were trained with."""

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of ``prompts``; BadInput if an encoder has no tokenizer yet."""
        keys = [(prompt.text, emphasis(prompt)) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))  # equal texts are encoded once
        tokens, vectors = self.encode(
            [weighted_sections(prompt) for prompt in distinct.values()],
            [mode for _, mode in distinct],
        )
        numbers = {key: number for number, key in enumerate(distinct)}
        rows = torch.tensor([numbers[key] for key in keys], device=tokens.values.device)
        vector = self.vector([pooled[rows] for pooled in vectors], prompts)
        return Condition(tokens=Tokens(tokens.values[rows], tokens.mask[rows]), vector=vector)

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """The condition of no text, or the prompts' own if ``only`` does not name ``text``.

        The sizes of the prompts are kept in any case.
        """
        if only is not None and "text" not in only:
            return self.forward(prompts)
        count = len(prompts)
        tokens, vectors = self.encode([[[("", 1.0)]]], ["none"])
        values, mask = (
            tensor.expand(count, *tensor.shape[1:]) for tensor in (tokens.values, tokens.mask)
        )
        vectors = [vector.expand(count, -1) for vector in vectors]
        if self.config.null_prompt == "zeros":
            values = torch.zeros_like(values)
            vectors = [torch.zeros_like(vector) for vector in vectors]
        negatives = [
            replace(prompt, given={"negative": True, **prompt.given}) for prompt in prompts
        ]
        return Condition(tokens=Tokens(values, mask), vector=self.vector(vectors, negatives))

    def check_embedding(self, name: str, vectors: Sequence[Tensor]) -> None:
        """BadInput if these vectors are for other text encoders."""
        widths = sorted({encoder.width for encoder in self._encoders()})
        for tensor in vectors:
            if tensor.ndim != 2 or tensor.shape[1] not in widths:
                raise BadInput(
                    f"the embedding {name!r} has vectors of shape {tuple(tensor.shape)}; this "
                    f"model's text encoders take (n, {' or '.join(map(str, widths))}): it belongs "
                    "to another model."
                )

    def add_embedding(self, name: str, vectors: Sequence[Tensor]) -> None:
        """Let ``name``, in any case, stand for vectors (n, width) in every encoder of that width.

        This is textual inversion (arXiv 2208.01618). BadInput if no encoder has such a width. An
        earlier embedding of that name is replaced.
        """
        self.check_embedding(name, vectors)
        for encoder in self._encoders():
            fitting = [tensor for tensor in vectors if tensor.shape[1] == encoder.width]
            encoder.embeddings.pop(name.lower(), None)
            if fitting:
                encoder.embeddings[name.lower()] = fitting[0]

    def remove_embedding(self, name: str) -> None:
        """Read ``name`` as ordinary text again; BadInput if it was not added."""
        encoders = self._encoders()
        known = {added for encoder in encoders for added in encoder.embeddings}
        if name.lower() not in known:
            raise unknown("embedding", name, known)
        for encoder in encoders:
            encoder.embeddings.pop(name.lower(), None)

    @property
    def reads_weights(self) -> bool:
        """True: weights scale the states of tokens."""
        return True

    def truncated(self, prompt: Prompt) -> list[str]:
        """A sentence for each encoder whose tokens are used and that cuts off the prompt's end."""
        sentences = []
        for encoder in self._encoders():
            if encoder.config.group is None:
                continue
            rest = encoder.truncated_text(weighted_sections(prompt)) + beyond_max_length(prompt)
            if rest.strip():
                kind = encoder.config.tokenizer.upper()
                most = encoder.config.max_chunks * encoder.chunk_format.capacity
                sentences.append(
                    f"the {kind} text encoder reads {most} tokens of a prompt; cut off is: "
                    f"{quote(rest)}"
                )
        return sentences

    def encode(
        self, texts: Sequence[Sequence[Section]], emphases: Sequence[str]
    ) -> tuple[Tokens, list[Tensor]]:
        """The joined tokens of weighted texts, and the vectors of the pooled encoders in order."""
        encoders = self._encoders()
        chunks = [[encoder.chunks(text) for text in texts] for encoder in encoders]
        weight = next(self.parameters())
        groups: dict[int, list[Tokens]] = {}
        vectors: list[Tensor] = []
        for encoder, own in zip(encoders, chunks, strict=True):
            same_group = [
                others
                for other, others in zip(encoders, chunks, strict=True)
                if other.config.group == encoder.config.group
            ]
            counts = [max(map(len, of_text)) for of_text in zip(*same_group, strict=True)]
            blank = encoder.chunk_format.chunk([])
            padded = [
                text + [blank] * (count - len(text))
                for text, count in zip(own, counts, strict=True)
            ]
            tokens, vector = encoder.encode(padded, emphases)
            if encoder.config.group is not None:
                moved = Tokens(tokens.values.to(weight), tokens.mask.to(weight.device))
                groups.setdefault(encoder.config.group, []).append(moved)
            if vector is not None:
                vectors.append(vector)
        self._warn_missing()
        return _concatenated([groups[group] for group in sorted(groups)]), vectors

    def vector(self, vectors: Sequence[Tensor], prompts: Sequence[Prompt]) -> Tensor | None:
        """The pooled vectors, then the sinusoids of each prompt's size conditions: (b, d)."""
        if not self.config.size_conditions:
            return torch.cat(list(vectors), dim=-1) if vectors else None
        weight = next(self.parameters())
        numbers = torch.tensor(
            [self.numbers(prompt) for prompt in prompts], device=weight.device
        )  # (b, k)
        waves = sinusoidal(numbers.flatten(), self.config.frequencies).view(len(prompts), -1)
        return torch.cat([*vectors, waves.to(weight.dtype)], dim=-1)

    def numbers(self, prompt: Prompt) -> list[float]:
        """The numbers of a prompt's ``size_conditions``; BadInput if one is no number."""
        given = prompt.given
        size = given.get("picture_size", self.config.native_size)
        defaults = {
            "original_size": size,
            "crop": (0, 0),
            "target_size": size,
            "aesthetic_score": 2.5 if given.get("negative") else 6.0,
        }
        return [
            number
            for name in self.config.size_conditions
            for number in _numbers(name, given.get(name, defaults[name]))
        ]

    def _encoders(self) -> list[PromptEncoder]:
        return [encoder for encoder in self.encoders if isinstance(encoder, PromptEncoder)]

    def _warn_missing(self) -> None:
        missing = [encoder for encoder in self.config.encoders if encoder.missing]
        if missing and not self.warned_missing:
            self.warned_missing = True
            kinds = " and ".join(sorted({encoder.tokenizer.upper() for encoder in missing}))
            warnings.warn(
                f"this model runs without its {kinds} text encoder: its tokens are zeros.",
                Note,
                stacklevel=4,
            )


def _concatenated(groups: Sequence[Sequence[Tokens]]) -> Tokens:
    """The tokens of all groups; within a group along features, then along the sequence."""
    values = [torch.cat([tokens.values for tokens in group], dim=-1) for group in groups]
    width = max(group.shape[-1] for group in values)
    padded = [F.pad(group, (0, width - group.shape[-1])) for group in values]
    return Tokens(torch.cat(padded, dim=1), torch.cat([group[0].mask for group in groups], dim=1))


def _numbers(name: str, value: Any) -> list[float]:
    count = 1 if name == "aesthetic_score" else 2
    numbers = [*value] if isinstance(value, list | tuple) else [value]
    if len(numbers) != count or not all(isinstance(number, int | float) for number in numbers):
        raise BadInput(
            f"{name}: wanted {'a number' if count == 1 else 'two numbers'}, got {value!r}."
        )
    return [float(number) for number in numbers]
