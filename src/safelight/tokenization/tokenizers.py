"""Tokenizers of pieces that others learned: CLIP's and T5's, which lie beside this file, and those of a folder, BERT's
among them."""

import json
import lzma
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from safelight.errors import BadInput

Kind = Literal["clip", "t5", "bert", "ids", "mistral", "qwen"]
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
BERT = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@lru_cache
def shipped(kind: Kind) -> Tokenizer:
    """CLIP's 49,408 pieces, or T5's 32,000; of others none ships."""
    if kind == "clip":
        lines = _shipped("clip-merges.txt.xz").decode().splitlines()
        return clip([line.split() for line in lines])
    return sentencepiece(_shipped("t5-spiece.model.xz"))


def read(given: Mapping[str, bytes], where: str) -> Tokenizer:
    """The tokenizer of a folder's files, by their names: ``tokenizer.json``, else ``vocab.json`` and ``merges.txt``,
    else ``spiece.model``, else ``vocab.txt``. BadInput if none of them is there or it cannot be read."""
    try:
        if "tokenizer.json" in given:
            tokenizer = Tokenizer.from_str(given["tokenizer.json"].decode())
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return tokenizer
        if "vocab.json" in given and "merges.txt" in given:
            lines = [line.split() for line in given["merges.txt"].decode().splitlines()]
            return clip(
                [line for line in lines if len(line) == 2 and line[0] != "#version:"],
                given["vocab.json"],
            )
        if "spiece.model" in given:
            return sentencepiece(given["spiece.model"])
        if "vocab.txt" in given:
            return wordpiece(given["vocab.txt"].decode().splitlines())
    except Exception as error:  # the library raises Exception itself
        said = " ".join(str(error).split())[:200]  # some of its errors are whole lists
        raise BadInput(f"the tokenizer of {where} cannot be read: {said}.") from None
    known = "tokenizer.json, vocab.json and merges.txt, spiece.model or vocab.txt"
    raise BadInput(f"{where}: wanted {known}, found none of them.")


def clip(merges: Sequence[Sequence[str]], vocabulary: bytes | None = None) -> Tokenizer:
    """Byte-pair encoding within words; ids go by bytes, bytes that end a word, merges, markers, if nothing else is
    said. Source: openai/CLIP, simple_tokenizer.py."""
    if vocabulary is None:
        letters = _alphabet()
        pieces = [
            *letters,
            *(f"{one}</w>" for one in letters),
            *("".join(pair) for pair in merges),
            BEGIN,
            END,
        ]
        ids = {piece: n for n, piece in enumerate(pieces)}
    else:
        ids = json.loads(vocabulary)
    pairs = [(pair[0], pair[1]) for pair in merges]
    tokenizer = Tokenizer(models.BPE(ids, pairs, end_of_word_suffix="</w>", unk_token=END))
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BEGIN, END])
    return tokenizer


def wordpiece(words: Sequence[str]) -> Tokenizer:
    """BERT's words and parts of words, one a line, in lower case and without accents (arXiv 1810.04805)."""
    ids = {word.strip(): n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=BERT[0], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([one for one in BERT if one in ids])
    return tokenizer


def sentencepiece(model: bytes) -> Tokenizer:
    """The unigram model of a SentencePiece file; its pieces by their scores, its own table of letters made alike."""
    pieces, letters = [], b""
    for number, value in _message(model):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_message(value))
            text, score = piece[1], piece.get(2, b"\0\0\0\0")
            assert isinstance(text, bytes)
            assert isinstance(score, bytes)
            pieces.append((text.decode(), struct.unpack("<f", score)[0]))
        if number == 3 and isinstance(value, bytes):
            table = dict(_message(value)).get(2, b"")
            letters = table if isinstance(table, bytes) else b""
    if not pieces:
        raise ValueError("it holds no pieces")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=[one for one, _ in pieces].index("<unk>")))
    blanks = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    first = [normalizers.Precompiled(letters)] if letters else []
    tokenizer.normalizer = normalizers.Sequence([*first, *blanks])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def _alphabet() -> list[str]:
    """A printable letter for each byte: printable ones first, each for itself."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, own), *(chr(256 + n) for n in range(256 - len(own)))]


def _shipped(name: str) -> bytes:
    return lzma.decompress((files("safelight.tokenization") / "vocabularies" / name).read_bytes())


def _message(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbered fields of a protocol buffer: whole numbers, and bytes of all else."""
    place = 0
    while place < len(data):
        key, place = _number(data, place)
        if key & 7 == 0:
            number, place = _number(data, place)
            yield key >> 3, number
            continue
        size, place = _number(data, place) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], place)
        if place + size > len(data):
            raise ValueError("it ends too soon")
        yield key >> 3, data[place : place + size]
        place += size


def _number(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins at a place, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[place]
        place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, place
