"""Tokenizers that others trained: CLIP's and T5's, which ship, and those in files of a folder."""

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
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
BERT_SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@lru_cache
def shipped(kind: Kind) -> Tokenizer:
    """CLIP's tokenizer of 49,408 tokens, or T5's of 32,000; no other kind ships."""
    if kind == "clip":
        lines = _vocabulary_file("clip-merges.txt.xz").decode().splitlines()
        return clip([line.split() for line in lines])
    return sentencepiece(_vocabulary_file("t5-spiece.model.xz"))


def from_files(contents: Mapping[str, bytes], where: str) -> Tokenizer:
    """The tokenizer of a folder, from its files by name.

    Read are ``tokenizer.json``, else ``vocab.json`` and ``merges.txt``, else ``spiece.model``, else
    ``vocab.txt``. BadInput if there is none of them or it cannot be read.
    """
    try:
        if "tokenizer.json" in contents:
            tokenizer = Tokenizer.from_str(contents["tokenizer.json"].decode())
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return tokenizer
        if "vocab.json" in contents and "merges.txt" in contents:
            lines = [line.split() for line in contents["merges.txt"].decode().splitlines()]
            merges = [line for line in lines if len(line) == 2 and line[0] != "#version:"]
            return clip(merges, contents["vocab.json"])
        if "spiece.model" in contents:
            return sentencepiece(contents["spiece.model"])
        if "vocab.txt" in contents:
            return wordpiece(contents["vocab.txt"].decode().splitlines())
    except Exception as error:  # the library raises Exception itself
        reason = " ".join(str(error).split())[:200]  # some of its messages hold whole lists
        raise BadInput(f"the tokenizer of {where} cannot be read: {reason}.") from None
    known = "tokenizer.json, vocab.json and merges.txt, spiece.model or vocab.txt"
    raise BadInput(f"{where}: wanted {known}, found none of them.")


def clip(merges: Sequence[Sequence[str]], vocabulary: bytes | None = None) -> Tokenizer:
    """CLIP's byte-pair encoding within words.

    Without a vocabulary (JSON), ids are numbered as in the original: bytes, bytes that end a word,
    merges, special tokens. Source: openai/CLIP, simple_tokenizer.py.
    """
    if vocabulary is None:
        alphabet = _byte_alphabet()
        tokens = [
            *alphabet,
            *(f"{char}</w>" for char in alphabet),
            *("".join(pair) for pair in merges),
            BOS,
            EOS,
        ]
        ids = {token: number for number, token in enumerate(tokens)}
    else:
        ids = json.loads(vocabulary)
    pairs = [(pair[0], pair[1]) for pair in merges]
    tokenizer = Tokenizer(models.BPE(ids, pairs, end_of_word_suffix="</w>", unk_token=EOS))
    split = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer


def wordpiece(vocabulary: Sequence[str]) -> Tokenizer:
    """BERT's tokenizer, from its lines, in lower case and without accents (arXiv 1810.04805)."""
    ids = {token.strip(): number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(
        models.WordPiece(ids, unk_token=BERT_SPECIAL[0], max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in BERT_SPECIAL if token in ids])
    return tokenizer


def sentencepiece(model: bytes) -> Tokenizer:
    """The unigram model of a SentencePiece file, with its own normalisation of characters."""
    pieces, normalisation = [], b""
    for number, value in _fields(model):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            text, score = piece[1], piece.get(2, b"\0\0\0\0")
            assert isinstance(text, bytes)
            assert isinstance(score, bytes)
            pieces.append((text.decode(), struct.unpack("<f", score)[0]))
        if number == 3 and isinstance(value, bytes):
            table = dict(_fields(value)).get(2, b"")
            normalisation = table if isinstance(table, bytes) else b""
    if not pieces:
        raise ValueError("it holds no tokens")
    unknown = [text for text, _ in pieces].index("<unk>")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown))
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    first = [normalizers.Precompiled(normalisation)] if normalisation else []
    tokenizer.normalizer = normalizers.Sequence([*first, *spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def _byte_alphabet() -> list[str]:
    """A printable character for each byte; printable bytes come first and stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [*map(chr, printable), *(chr(256 + number) for number in range(others))]


def _vocabulary_file(name: str) -> bytes:
    return lzma.decompress((files("safelight.tokenization") / "vocabularies" / name).read_bytes())


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbered fields of a protocol buffer: varints as integers, all others as bytes."""
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        if key & 7 == 0:
            number, offset = _varint(data, offset)
            yield key >> 3, number
            continue
        size, offset = _varint(data, offset) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], offset)
        if offset + size > len(data):
            raise ValueError("it ends too soon")
        yield key >> 3, data[offset : offset + size]
        offset += size


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """The integer at an offset, seven bits a byte, and the offset behind it."""
    value = shift = 0
    while True:
        byte = data[offset]
        offset, value, shift = offset + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, offset
