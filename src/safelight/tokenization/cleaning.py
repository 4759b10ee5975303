"""What CLIP does to a text before it is cut into pieces: mend it, one blank between words, lower case.

The original leaves the mending to a library that guesses what a broken text once was. Here are its rules for what
occurs in prompts: typographic quotes, ligatures, wide letters, control characters, and UTF-8 that was read as
Windows-1252.
"""

import html
import re
import unicodedata

_QUOTES = str.maketrans({**dict.fromkeys("‘’‚‛ʼ", "'"), **dict.fromkeys("“”„‟", '"')})
_WIDE = re.compile("[\u3000\uff01-\uffef]+")
_LIGATURES = re.compile("[\u0132\u0133\u0149\u01f1-\u01f3\u01c4-\u01cc\ufb00-\ufb06]")
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]|[\ud800-\udfff]"
)
_HIGH = {
    bytes([n]).decode("cp1252", "replace").replace("\ufffd", chr(n)): n for n in range(0x80, 0x100)
}
_TAIL = "".join(re.escape(one) for one, n in _HIGH.items() if n < 0xC0)
_BROKEN = re.compile(f"[Ã][{_TAIL}]|[à-ï][{_TAIL}]{{2}}|[ð-ô][{_TAIL}]{{3}}")


def clean(text: str) -> str:
    """The text as CLIP's tokenizer sees it."""
    text = html.unescape(html.unescape(_mended(text)))
    return " ".join(text.split()).lower()


def _mended(text: str) -> str:
    if "<" not in text:
        text = html.unescape(text)
    text = _BROKEN.sub(_read_again, text)
    text = _LIGATURES.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = _WIDE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return unicodedata.normalize("NFC", _CONTROL.sub("", text.translate(_QUOTES)))


def _read_again(found: re.Match[str]) -> str:
    """The letter whose bytes in UTF-8 were read as Windows-1252; what is none stays as it is."""
    try:
        return bytes(_HIGH[one] for one in found[0]).decode()
    except UnicodeDecodeError:
        return found[0]
