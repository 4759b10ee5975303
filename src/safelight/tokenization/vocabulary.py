"""The words of one tower: which tokenizer it reads with; another than the one that ships travels in the state dict."""

from collections.abc import Mapping
from typing import NamedTuple

from tokenizers import Tokenizer
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.text_state import pack, unpack
from safelight.tokenization.cleaning import clean
from safelight.tokenization.tokenizers import BEGIN, BERT, END, Kind, read, shipped

SMALLEST = {"clip": 49_408, "t5": 32_000}
LACKING = {  # why there are no words, of kinds of which none ship
    "bert": "this text tower reads BERT's words, and its file has no list of them: put vocab.txt, that of "
    "bert-base-uncased, or its tokenizer.json beside the file and load it again.",
    "ids": "this tower has no words; it reads the numbers of pieces.",
}


class Asked(NamedTuple):
    """How a language model is asked: what stands around a text, and what fills the page up, to its left or right."""

    ahead: str
    behind: str
    pad: str
    left: bool


ASKED = {  # FLUX.2 dev and klein, as their pipelines in diffusers ask
    "mistral": Asked(
        "<s>[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured responses focusing "
        "on object relationships, object\nattribution and actions without speculation.[/SYSTEM_PROMPT][INST]",
        "[/INST]",
        "<pad>",
        left=True,
    ),
    "qwen": Asked(
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|endoftext|>",
        left=False,
    ),
}


class Words(nn.Module):
    """Texts → ids of their pieces, below ``vocabulary``. What ships is read when it is first needed; of the kind
    ``ids`` the text is the ids themselves, written out."""

    def __init__(self, kind: Kind, vocabulary: int) -> None:
        super().__init__()
        self.kind, self.vocabulary = kind, vocabulary
        self.given: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The one that was given, else the one that ships; BadInput if that one is too large for the tower."""
        if self.given is not None:
            return self.given
        if self.vocabulary < SMALLEST.get(self.kind, self.vocabulary + 1):
            if self.kind in LACKING:
                raise BadInput(LACKING[self.kind])
            raise BadInput(
                f"a text tower of {self.vocabulary} pieces needs its own tokenizer; give its files, "
                "or load its weights from a folder that holds them."
            )
        return shipped(self.kind)

    def give(self, files: Mapping[str, bytes], where: str) -> None:
        """Take the tokenizer of a folder's files; BadInput if it has more pieces than the tower."""
        tokenizer = read(files, where)
        if tokenizer.get_vocab_size() > self.vocabulary:
            raise BadInput(
                f"the tokenizer of {where} has {tokenizer.get_vocab_size()} pieces, its tower {self.vocabulary}: "
                "they do not belong together."
            )
        known = self.vocabulary >= SMALLEST.get(self.kind, self.vocabulary + 1)
        same = known and tokenizer.to_str() == shipped(self.kind).to_str()
        self.given = None if same else tokenizer

    @property
    def end(self) -> int:
        """The id that a text ends with. A tower without a tokenizer has it last, as CLIP's has."""
        if self.kind in ("t5", "ids"):
            return 1 if self.kind == "t5" else self.vocabulary - 1
        return self._marker(BERT[2] if self.kind == "bert" else END, self.vocabulary - 1)

    @property
    def ahead(self) -> tuple[int, ...]:
        """The ids that stand before every text."""
        if self.kind in ASKED:
            return tuple(
                self.tokenizer.encode(ASKED[self.kind].ahead, add_special_tokens=False).ids
            )
        if self.kind in ("t5", "ids"):
            return ()
        return (self._marker(BERT[1] if self.kind == "bert" else BEGIN, self.vocabulary - 2),)

    @property
    def behind(self) -> tuple[int, ...]:
        """The ids that stand behind every text."""
        if self.kind in ASKED:
            return tuple(
                self.tokenizer.encode(ASKED[self.kind].behind, add_special_tokens=False).ids
            )
        return () if self.kind == "ids" else (self.end,)

    @property
    def pad(self) -> int:
        """The id that fills a page and is no text."""
        if self.kind in ASKED:
            return self._marker(ASKED[self.kind].pad, 0)
        return self.vocabulary - 1 if self.kind == "ids" else 0

    @property
    def left(self) -> bool:
        """Whether what fills a page stands before the text."""
        return self.kind in ASKED and ASKED[self.kind].left

    def pieces(self, text: str) -> list[int]:
        """The ids of a text, without those of begin and end."""
        if self.kind == "ids":
            return self._numbers(text)
        ids: list[int] = self.tokenizer.encode(self._mended(text), add_special_tokens=False).ids
        return ids

    def rest(self, text: str, pieces: int) -> str:
        """What of a text follows its first so many pieces."""
        if self.kind == "ids":
            return " ".join(map(str, self._numbers(text)[pieces:]))
        mended = self._mended(text)
        begins = self.tokenizer.encode(mended, add_special_tokens=False).offsets[pieces][0]
        return mended[begins:]

    def get_extra_state(self) -> Tensor:
        return pack("" if self.given is None else self.given.to_str())

    def set_extra_state(self, state: Tensor) -> None:
        text = unpack(state)
        self.given = Tokenizer.from_str(text) if text else None

    def _mended(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()
        return (
            clean(text)
            if self.kind == "clip"
            else text.replace("[IMG]", "")
            if self.kind == "mistral"
            else text
        )

    def _numbers(self, text: str) -> list[int]:
        """Ids that are written out; BadInput for what is none."""
        words = text.replace(",", " ").split()
        if wrong := [
            one
            for one in words
            if not (one.isascii() and one.isdigit() and int(one) < self.vocabulary)
        ]:
            raise BadInput(
                f"this model reads the numbers of pieces, from 0 to {self.vocabulary - 1}, got {wrong[0][:100]!r}: give"
                " numbers with spaces between them."
            )
        return [int(one) for one in words]

    def _marker(self, name: str, usual: int) -> int:
        if self.given is None and self.vocabulary < SMALLEST.get(self.kind, 0):
            return usual
        found = self.tokenizer.token_to_id(name)
        return usual if found is None else int(found)
