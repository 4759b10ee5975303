"""The text cleaning of CLIP's tokenizer: repaired encoding, single spaces, lower case.

The original repairs texts with the library ftfy, which guesses how a text was garbled. These are
its rules for what occurs in prompts: typographic quotes, ligatures, full-width letters, control
characters, and UTF-8 that was decoded as Windows-1252.
"""

import html
import re
import unicodedata

_QUOTES = str.maketrans({**dict.fromkeys("‘’‚‛ʼ", "'"), **dict.fromkeys("“”„‟", '"')})
_FULL_WIDTH = re.compile("[\u3000\uff01-\uffef]+")
_LIGATURES = re.compile("[\u0132\u0133\u0149\u01f1-\u01f3\u01c4-\u01cc\ufb00-\ufb06]")
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]|[\ud800-\udfff]"
)
_BYTE_OF = {  # characters that Windows-1252 makes of bytes beyond ASCII
    bytes([byte]).decode("cp1252", "replace").replace("\ufffd", chr(byte)): byte
    for byte in range(0x80, 0x100)
}
_CONTINUATION = "".join(re.escape(char) for char, byte in _BYTE_OF.items() if byte < 0xC0)
_MOJIBAKE = re.compile(
    f"[Ã][{_CONTINUATION}]|[à-ï][{_CONTINUATION}]{{2}}|[ð-ô][{_CONTINUATION}]{{3}}"
)


def clean(text: str) -> str:
    """The text as CLIP's tokenizer sees it."""
    text = html.unescape(html.unescape(_fix_text(text)))
    return " ".join(text.split()).lower()


def _fix_text(text: str) -> str:
    if "<" not in text:
        text = html.unescape(text)
    text = _MOJIBAKE.sub(_decode_again, text)
    text = _LIGATURES.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return unicodedata.normalize("NFC", _CONTROL.sub("", text.translate(_QUOTES)))


def _decode_again(match: re.Match[str]) -> str:
    """The character whose UTF-8 bytes were decoded as Windows-1252, if there is one."""
    try:
        return bytes(_BYTE_OF[char] for char in match[0]).decode()
    except UnicodeDecodeError:
        return match[0]
