"""What other programs write into a picture about how it was made, in our names.

Read are web UIs of Stable Diffusion and their forks, ComfyUI, Fooocus, InvokeAI and NovelAI.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safelight import scheduler_names
from safelight.media import comfyui
from safelight.media.pictures import opened

MAX_CHARACTERS = 4 << 20  # longer texts are not read
USER_COMMENT, EXIF_BLOCK = 0x9286, 0x8769  # EXIF tags: the comment, and the block that holds it
ENCODINGS = {b"UNICODE\0": "", b"ASCII\0\0\0": "utf-8", b"\0" * 8: "utf-8"}
"""The encoding that the first 8 bytes of an EXIF comment name; empty: UTF-16, either byte order."""
ALPHA_SIGNATURES = {b"stealth_pnginfo": False, b"stealth_pngcomp": True}
"""What text hidden in the lowest bits of alpha begins with, and whether it is compressed."""
SETTINGS_LINE = re.compile(r"(?:^|\n)(?=Steps: \d)")
PAIR = re.compile(r'([^\s:,"][^:,"]{0,59}):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
LORA = re.compile(r"<(?:lora|lyco):([^:<>]+)(?::(-?\d*\.?\d+))?[^<>]*>")

KEYS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("positive_prompt", "prompt", "description"),
    "negative": ("negative_prompt", "uc"),
    "model": ("model", "base_model", "source"),
    "model_hash": ("model_hash", "base_model_hash"),
    "steps": ("steps",),
    "sampler": ("sampler", "sampler_name", "scheduler"),
    "spacing": ("schedule_type", "scheduler"),
    "guidance": ("cfg_scale", "guidance_scale", "scale"),
    "seed": ("seed",),
    "size": ("size", "resolution"),
    "width": ("width",),
    "height": ("height",),
}
"""Our key for each fact, and theirs; of several that a picture has the first counts."""


def read_foreign(path: Path) -> dict[str, Any] | None:
    """What the program (``by``) that made a picture wrote into it, under our keys.

    These are prompt, negative, settings, size, model and adapters. Facts for which we have no key
    are under ``rest``. None if no known program wrote anything. Samplers and spacings have our
    names where there is one. BadInput if the file is not a picture.
    """
    with opened(path, path.name) as picture:
        texts = dict(_texts(picture))
    if texts.get("Software") == "NovelAI":
        prompt = {name: texts.get(name) for name in ("Description", "Source")}
        return to_ours("NovelAI", prompt | (_json(texts.get("Comment", "")) or {}), {})
    results = (read(texts.get(name, "")) for name, read in READERS.items())
    return next((facts for facts in results if facts), None)


def _texts(picture: Image.Image) -> Iterator[tuple[str, str]]:
    """The texts in a picture by chunk name; those in EXIF or in alpha as ``parameters``."""
    for name, text in picture.info.items():
        if isinstance(name, str) and isinstance(text, str) and len(text) <= MAX_CHARACTERS:
            yield name, text
    comment = picture.getexif().get_ifd(EXIF_BLOCK).get(USER_COMMENT)
    if isinstance(comment, bytes) and comment[:8] in ENCODINGS:
        encoding = ENCODINGS[comment[:8]] or _utf16(comment[8:])
        yield "parameters", comment[8:].decode(encoding, errors="replace").strip("\0")
        return
    visible = "parameters" in picture.info or picture.mode != "RGBA"
    if not visible and (text := _alpha_text(picture)):
        yield "parameters", text


def _utf16(text: bytes) -> str:
    """The byte order: the upper bytes of most letters that people write are 0."""
    return "utf-16-be" if text[::2].count(0) >= text[1::2].count(0) else "utf-16-le"


def _alpha_text(picture: Image.Image) -> str | None:
    """The text in the lowest bits of alpha, column by column: signature, number of bits, bits."""
    bits = (np.asarray(picture.getchannel("A")) & 1).T.ravel()
    signature = np.packbits(bits[:120]).tobytes()
    if signature not in ALPHA_SIGNATURES:
        return None
    length = int.from_bytes(np.packbits(bits[120:152]).tobytes(), "big")
    data = np.packbits(bits[152 : 152 + min(length, 8 * MAX_CHARACTERS)]).tobytes()
    try:
        if ALPHA_SIGNATURES[signature]:
            data = zlib.decompressobj(wbits=31).decompress(data, MAX_CHARACTERS)
        return data.decode()
    except (zlib.error, UnicodeDecodeError):
        return None


def _infotext(text: str) -> dict[str, Any] | None:
    """Facts from a web UI's text: prompt, ``Negative prompt: …``, and a line ``Steps: 20, …``."""
    ends = [match.end() for match in SETTINGS_LINE.finditer(text)]
    if not ends:
        return None
    prompt, _, negative = text[: ends[-1]].partition("Negative prompt:")
    pairs = PAIR.findall(text[ends[-1] :].replace("\n", ","))
    facts = {name: _unquoted(value) for name, value in pairs}
    facts |= {"prompt": prompt.strip(), "negative_prompt": negative.strip()}
    loras = {name: float(scale or 1) for name, scale in LORA.findall(prompt)}
    return to_ours("a web UI", facts, loras)


def _parameters(text: str) -> dict[str, Any] | None:
    """Facts from the chunk where Fooocus writes JSON and web UIs their text."""
    facts = _json(text)
    if facts is None:
        return _infotext(text)
    loras = facts.get("loras")
    pairs = [pair for pair in loras if _is_pair(pair)] if isinstance(loras, list) else []
    scales = {str(pair[0]): _number(pair[1]) for pair in pairs}
    known = {name: scale for name, scale in scales.items() if scale is not None}
    return to_ours("Fooocus", facts, known)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1


def _invoke(text: str) -> dict[str, Any] | None:
    facts = _json(text)
    return to_ours("InvokeAI", facts, {}) if facts else None


def _graph(text: str) -> dict[str, Any] | None:
    facts = comfyui.facts(_json(text) or {})
    return to_ours("ComfyUI", *facts) if facts else None


READERS: Mapping[str, Callable[[str], dict[str, Any] | None]] = {
    "parameters": _parameters,
    "prompt": _graph,
    "invokeai_metadata": _invoke,
}
"""By the name of the text chunk."""


def to_ours(by: str, facts: Mapping[str, Any], adapters: Mapping[str, float]) -> dict[str, Any]:
    """The facts that the program ``by`` wrote, under our keys; those without one under ``rest``."""
    theirs = {re.sub(r"\W+", "_", name.strip().lower()): value for name, value in facts.items()}
    values = {key: _first(theirs, names) for key, names in KEYS.items()}
    if isinstance(model := values["model"], dict):
        values["model"] = model.get("model_name")
    size = f"{values['size'] or ''} {values['width'] or ''} {values['height'] or ''}"
    texts = ("prompt", "negative", "model", "model_hash")
    known = {name for names in KEYS.values() for name in names}
    result = {
        **{name: str(values[name]) for name in texts if values[name]},
        "settings": _settings(values),
        "size": "x".join(re.findall(r"\d+", size)[:2]),
        "adapters": dict(adapters),
        "rest": {
            name: value
            for name, value in theirs.items()
            if name not in known and isinstance(value, str | int | float)
        },
    }
    return {"by": by, **{name: value for name, value in result.items() if value}}


def _first(facts: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((facts[name] for name in names if facts.get(name) not in (None, "")), None)


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Steps, sampler, spacing, guidance and seed; a sampler that is not known keeps its name."""
    numbers = {name: _number(values.get(name)) for name in ("steps", "guidance", "seed")}
    settings: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if name := str(values.get("sampler") or ""):
        both = scheduler_names.find(name)
        settings["sampler"] = both.sampler if both and both.sampler else name
        if both and both.sampler and both.spacing:
            settings["spacing"] = both.spacing
    alone = scheduler_names.find(str(values.get("spacing")))
    if alone and not alone.sampler:
        settings["spacing"] = alone.spacing
    return settings


def _unquoted(value: str) -> str:
    value = value.strip()
    if value[:1] == '"' and value[-1:] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            pass
    return value


def _number(value: object) -> int | float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    if not abs(number) < float("inf"):
        return None
    return int(str(value)) if re.fullmatch(r"-?\d+", str(value)) else number


def _json(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
