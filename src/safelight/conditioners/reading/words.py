"""The words of one tower: which tokenizer it reads with; another than the one that ships travels in the state dict."""

from collections.abc import Mapping

from tokenizers import Tokenizer
from torch import Tensor, nn

from safelight.conditioners.reading.cleaning import clean
from safelight.conditioners.reading.pieces import BEGIN, BERT, END, Kind, read, shipped
from safelight.errors import BadInput
from safelight.nn.extra import pack, unpack

SMALLEST = {"clip": 49_408, "t5": 32_000}


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
        if self.vocabulary < SMALLEST.get(self.kind, 0):
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
        ships = self.kind in SMALLEST and self.vocabulary >= SMALLEST[self.kind]
        self.given = None if ships and tokenizer.to_str() == shipped(self.kind).to_str() else tokenizer

    @property
    def begin(self) -> int | None:
        """The id that a text begins with, if any."""
        if self.kind in ("t5", "ids"):
            return None
        return self._marker(BERT[1] if self.kind == "bert" else BEGIN, self.vocabulary - 2)

    @property
    def end(self) -> int | None:
        """The id that a text ends with, if any. A tower without a tokenizer has it last, as CLIP's has."""
        if self.kind in ("t5", "ids"):
            return 1 if self.kind == "t5" else None
        return self._marker(BERT[2] if self.kind == "bert" else END, self.vocabulary - 1)

    def pieces(self, text: str) -> list[int]:
        """The ids of a text, without those of begin and end."""
        if self.kind == "ids":
            return self._numbers(text)
        ids: list[int] = self.tokenizer.encode(self._mended(text), add_special_tokens=False).ids
        return ids

    def behind(self, text: str, pieces: int) -> str:
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
        return clean(text) if self.kind == "clip" else text

    def _numbers(self, text: str) -> list[int]:
        """Ids that are written out; BadInput for what is none."""
        words = text.replace(",", " ").split()
        if wrong := [one for one in words if not (one.isascii() and one.isdigit() and int(one) < self.vocabulary)]:
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
