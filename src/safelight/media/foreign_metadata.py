"""How other programs say that they made a picture, in our words: web UIs of Stable Diffusion and its forks, ComfyUI,
Fooocus, InvokeAI, NovelAI."""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safelight.media import comfyui
from safelight.media.pictures import opened

LONGEST = 4 << 20  # characters of what a picture may say
COMMENT, DETAILS = 0x9286, 0x8769  # EXIF: the user's comment, and the block that holds it
CODES = {
    b"UNICODE\0": "",
    b"ASCII\0\0\0": "utf-8",
    b"\0" * 8: "utf-8",
}  # what a comment of EXIF begins with
HIDDEN = {
    b"stealth_pnginfo": False,
    b"stealth_pngcomp": True,
}  # in the last bits of alpha; whether it is compressed
LAST = re.compile(r"(?:^|\n)(?=Steps: \d)")
PAIR = re.compile(r'([^\s:,"][^:,"]{0,59}):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
LORA = re.compile(r"<(?:lora|lyco):([^:<>]+)(?::(-?\d*\.?\d+))?[^<>]*>")

WORDS: Mapping[str, tuple[str, ...]] = {  # ours, and theirs in the order in which they are believed
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
SAMPLERS = {  # by their names without case, dots and dashes
    "euler": "euler",
    "eulera": "euler-ancestral",
    "eulerancestral": "euler-ancestral",
    "heun": "heun",
    "lms": "lms",
    "dpm2": "dpm2",
    "dpm2a": "dpm2-ancestral",
    "dpm2ancestral": "dpm2-ancestral",
    "dpmpp2sa": "dpmpp2s:eta=1",
    "dpmpp2sancestral": "dpmpp2s:eta=1",
    "dpmpp2m": "dpmpp2m",
    "dpmpp2msde": "dpmpp2m-sde",
    "dpmpp2msdeheun": "dpmpp2m-sde:rule=heun",
    "dpmpp3msde": "dpmpp3m-sde",
    "dpmppsde": "dpmpp-sde",
    "dpmadaptive": "adaptive",
    "ddim": "ddim",
    "ddpm": "ddpm",
    "plms": "pndm",
    "deis": "deis",
    "unipc": "unipc:variant=bh1",
    "unipcbh2": "unipc",
    "lcm": "lcm",
    "tcd": "tcd",
    "restart": "restart",
}
SPACINGS = {"k": "karras"} | {
    name: name for name in ("karras", "exponential", "polyexponential", "beta")
}
NAMED = re.compile(f"(?:k|sample)?({'|'.join(SAMPLERS)})(?:gpu)?({'|'.join(SPACINGS)})?")


def made(path: Path) -> dict[str, Any] | None:
    """What the program ``by`` says of a picture: prompt, negative, settings, size, model, adapters, and the ``rest``.

    None if it says nothing that is known. The settings have our names for samplers and spacings where there is one.
    BadInput if the file is no picture.
    """
    with opened(path, path.name) as picture:
        said = dict(_said(picture))
    if said.get("Software") == "NovelAI":
        prompt = {name: said.get(name) for name in ("Description", "Source")}
        return told("NovelAI", prompt | (_json(said.get("Comment", "")) or {}), {})
    return next(
        (found for name, read in READERS.items() if (found := read(said.get(name, "")))), None
    )


def _said(picture: Image.Image) -> Iterator[tuple[str, str]]:
    """The texts in a picture by the names of their chunks; what EXIF or alpha hide, as ``parameters``."""
    for name, text in picture.info.items():
        if isinstance(name, str) and isinstance(text, str) and len(text) <= LONGEST:
            yield name, text
    comment = picture.getexif().get_ifd(DETAILS).get(COMMENT)
    if isinstance(comment, bytes) and comment[:8] in CODES:
        text = comment[8:].decode(CODES[comment[:8]] or _utf16(comment[8:]), errors="replace")
        yield "parameters", text.strip("\0")
    elif (
        "parameters" not in picture.info and picture.mode == "RGBA" and (hidden := _hidden(picture))
    ):
        yield "parameters", hidden


def _utf16(text: bytes) -> str:
    """Which way round its letters are: of most of what people write the upper halves are 0."""
    return "utf-16-be" if text[::2].count(0) >= text[1::2].count(0) else "utf-16-le"


def _hidden(picture: Image.Image) -> str | None:
    """The text in the last bits of alpha, column by column: a mark, how many bits, the bits."""
    bits = (np.asarray(picture.getchannel("A")) & 1).T.ravel()
    mark = np.packbits(bits[:120]).tobytes()
    if mark not in HIDDEN:
        return None
    length = int.from_bytes(np.packbits(bits[120:152]).tobytes(), "big")
    data = np.packbits(bits[152 : 152 + min(length, 8 * LONGEST)]).tobytes()
    try:
        if HIDDEN[mark]:
            data = zlib.decompressobj(wbits=31).decompress(data, LONGEST)
        return data.decode()
    except (zlib.error, UnicodeDecodeError):
        return None


def _infotext(text: str) -> dict[str, Any] | None:
    """A web UI's text: the prompt, ``Negative prompt: …``, and a last line of ``Steps: 20, Sampler: Euler a, …``."""
    ends = [found.end() for found in LAST.finditer(text)]
    if not ends:
        return None
    prompt, _, negative = text[: ends[-1]].partition("Negative prompt:")
    pairs = PAIR.findall(text[ends[-1] :].replace("\n", ","))
    facts = {name: _unquoted(value) for name, value in pairs}
    loras = {name: float(scale or 1) for name, scale in LORA.findall(prompt)}
    return told(
        "a web UI", {**facts, "prompt": prompt.strip(), "negative_prompt": negative.strip()}, loras
    )


def _parameters(text: str) -> dict[str, Any] | None:
    """Fooocus writes JSON where web UIs write their text."""
    facts = _json(text)
    if facts is None:
        return _infotext(text)
    loras = facts.get("loras")
    named = (
        [one for one in loras if isinstance(one, list) and len(one) > 1]
        if isinstance(loras, list)
        else []
    )
    return told(
        "Fooocus",
        facts,
        {str(one[0]): scale for one in named if (scale := _number(one[1])) is not None},
    )


def _invoke(text: str) -> dict[str, Any] | None:
    facts = _json(text)
    return told("InvokeAI", facts, {}) if facts else None


def _graph(text: str) -> dict[str, Any] | None:
    found = comfyui.facts(_json(text) or {})
    return told("ComfyUI", *found) if found else None


READERS: Mapping[str, Callable[[str], dict[str, Any] | None]] = {  # by the name of the chunk
    "parameters": _parameters,
    "prompt": _graph,
    "invokeai_metadata": _invoke,
}


def told(by: str, facts: Mapping[str, Any], adapters: Mapping[str, float]) -> dict[str, Any]:
    """What a program says by its own ``facts``, in our words; plain ones that have none in ``rest``."""
    given = {re.sub(r"\W+", "_", name.strip().lower()): value for name, value in facts.items()}
    known = {name for names in WORDS.values() for name in names}
    found = {
        ours: next((given[one] for one in theirs if given.get(one) not in (None, "")), None)
        for ours, theirs in WORDS.items()
    }
    if isinstance(model := found["model"], dict):
        found["model"] = model.get("model_name")
    sides = re.findall(
        r"\d+", f"{found['size'] or ''} {found['width'] or ''} {found['height'] or ''}"
    )
    texts = ("prompt", "negative", "model", "model_hash")
    said: dict[str, Any] = {name: str(found[name]) for name in texts if found[name]}
    said |= {"settings": _settings(found), "size": "x".join(sides[:2]), "adapters": dict(adapters)}
    rest = {
        name: one
        for name, one in given.items()
        if name not in known and isinstance(one, str | int | float)
    }
    return {"by": by, **{name: one for name, one in {**said, "rest": rest}.items() if one}}


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Steps, sampler, spacing, guidance and seed; a sampler that is unknown keeps its name."""
    numbers = {name: _number(found.get(name)) for name in ("steps", "guidance", "seed")}
    settings: dict[str, Any] = {name: one for name, one in numbers.items() if one is not None}
    if name := str(found.get("sampler") or ""):
        known = NAMED.fullmatch(_flat(name))
        settings["sampler"] = SAMPLERS[known[1]] if known else name
        if known and known[2]:
            settings["spacing"] = SPACINGS[known[2]]
    if (spacing := _flat(str(found.get("spacing")))) in SPACINGS:
        settings["spacing"] = SPACINGS[spacing]
    return settings


def _flat(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p"))


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
