"""The tokenizer of one text encoder: the one that ships, or one that travels in the state dict."""

from collections.abc import Mapping
from typing import NamedTuple

from tokenizers import Tokenizer
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.text_state import pack, unpack
from safelight.tokenization.cleaning import clean
from safelight.tokenization.tokenizers import BERT_SPECIAL, BOS, EOS, Kind, from_files, shipped

SHIPPED_SIZE = {"clip": 49_408, "t5": 32_000}
"""How many tokens the vocabularies that ship have."""
MISSING = {  # what to do, for kinds of which none ships
    "bert": "this text encoder uses BERT's vocabulary, which its file does not hold: put the "
    "vocab.txt of bert-base-uncased, or its tokenizer.json, beside the file and load it again.",
    "ids": "this text encoder has no vocabulary; its prompts are token ids.",
}


class ChatTemplate(NamedTuple):
    """What surrounds a prompt of a language model, and the token that fills up its chunk."""

    prefix: str
    suffix: str
    pad_token: str
    pad_left: bool


CHAT_TEMPLATES = {  # FLUX.2 dev and klein, as in their pipelines in diffusers
    "mistral": ChatTemplate(
        "<s>[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give "
        "structured responses focusing on object relationships, object\nattribution and actions "
        "without speculation.[/SYSTEM_PROMPT][INST]",
        "[/INST]",
        "<pad>",
        pad_left=True,
    ),
    "qwen": ChatTemplate(
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|endoftext|>",
        pad_left=False,
    ),
}


class TextTokenizer(nn.Module):
    """Texts → token ids below ``vocabulary``.

    A tokenizer that ships is read when it is first needed. Of the kind ``ids`` a text is the token
    ids themselves, as decimal numbers.
    """

    def __init__(self, kind: Kind, vocabulary: int) -> None:
        super().__init__()
        self.kind, self.vocabulary = kind, vocabulary
        self.custom: Tokenizer | None = None

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer that was loaded, else the one that ships; BadInput if neither fits."""
        if self.custom is not None:
            return self.custom
        if self.vocabulary < SHIPPED_SIZE.get(self.kind, self.vocabulary + 1):
            if self.kind in MISSING:
                raise BadInput(MISSING[self.kind])
            raise BadInput(
                f"a text encoder of {self.vocabulary} tokens needs its own tokenizer; add its "
                "files, or load its weights from a folder that holds them."
            )
        return shipped(self.kind)

    def load_files(self, contents: Mapping[str, bytes], where: str) -> None:
        """Use the tokenizer in these files; BadInput if it has more tokens than the encoder."""
        tokenizer = from_files(contents, where)
        size = tokenizer.get_vocab_size()
        if size > self.vocabulary:
            raise BadInput(
                f"the tokenizer of {where} has {size} tokens, its text encoder "
                f"{self.vocabulary}: they do not belong together."
            )
        ships = self.vocabulary >= SHIPPED_SIZE.get(self.kind, self.vocabulary + 1)
        same = ships and tokenizer.to_str() == shipped(self.kind).to_str()
        self.custom = None if same else tokenizer

    @property
    def eos_id(self) -> int:
        """The id that ends a text; without a tokenizer the last one, as in CLIP."""
        if self.kind in ("t5", "ids"):
            return 1 if self.kind == "t5" else self.vocabulary - 1
        return self._special_id(
            BERT_SPECIAL[2] if self.kind == "bert" else EOS, self.vocabulary - 1
        )

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids before every text."""
        if self.kind in CHAT_TEMPLATES:
            return self._encode(CHAT_TEMPLATES[self.kind].prefix)
        if self.kind in ("t5", "ids"):
            return ()
        begin = BERT_SPECIAL[1] if self.kind == "bert" else BOS
        return (self._special_id(begin, self.vocabulary - 2),)

    @property
    def suffix(self) -> tuple[int, ...]:
        """The ids after every text."""
        if self.kind in CHAT_TEMPLATES:
            return self._encode(CHAT_TEMPLATES[self.kind].suffix)
        return () if self.kind == "ids" else (self.eos_id,)

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        if self.kind in CHAT_TEMPLATES:
            return self._special_id(CHAT_TEMPLATES[self.kind].pad_token, 0)
        return self.vocabulary - 1 if self.kind == "ids" else 0

    @property
    def pad_left(self) -> bool:
        """Whether padding stands before the text."""
        return self.kind in CHAT_TEMPLATES and CHAT_TEMPLATES[self.kind].pad_left

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text, without prefix and suffix."""
        if self.kind == "ids":
            return self._parse_ids(text)
        return list(self._encode(self._prepare(text)))

    def text_after(self, text: str, count: int) -> str:
        """What of a text follows its first ``count`` tokens."""
        if self.kind == "ids":
            return " ".join(map(str, self._parse_ids(text)[count:]))
        prepared = self._prepare(text)
        offsets = self.backend.encode(prepared, add_special_tokens=False).offsets
        return prepared[offsets[count][0] :]

    def get_extra_state(self) -> Tensor:
        return pack("" if self.custom is None else self.custom.to_str())

    def set_extra_state(self, state: Tensor) -> None:
        text = unpack(state)
        self.custom = Tokenizer.from_str(text) if text else None

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.backend.encode(text, add_special_tokens=False).ids)

    def _prepare(self, text: str) -> str:
        """The text without halves of surrogate pairs, and changed as the original changes it."""
        text = text.encode("utf-8", "replace").decode()
        if self.kind == "clip":
            return clean(text)
        return text.replace("[IMG]", "") if self.kind == "mistral" else text

    def _parse_ids(self, text: str) -> list[int]:
        """Decimal token ids; BadInput for anything else."""
        numbers = text.replace(",", " ").split()
        for number in numbers:
            if not (number.isascii() and number.isdigit() and int(number) < self.vocabulary):
                raise BadInput(
                    f"this model's prompts are token ids from 0 to {self.vocabulary - 1}, got "
                    f"{number[:100]!r}: write numbers with spaces between them."
                )
        return [int(number) for number in numbers]

    def _special_id(self, token: str, default: int) -> int:
        """The id of a special token; ``default`` if there is no such token, or no tokenizer."""
        if self.custom is None and self.vocabulary < SHIPPED_SIZE.get(self.kind, 0):
            return default
        number = self.backend.token_to_id(token)
        return default if number is None else int(number)
