"""A model with small files merged into it: adapters and learned words, as a person names them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safelight.adapters.lora import Merged
from safelight.checkpoints.adapter_files import parts, read_adapter
from safelight.checkpoints.words import add_words
from safelight.model import LatentDiffusion


def adapted(model: LatentDiffusion, loras: Sequence[str], words: Sequence[str] = ()) -> LatentDiffusion:
    """The model with ``FILE[:SCALE]`` merged for each of ``loras`` and ``FILE[:NAME]`` added for each of ``words``.

    Its card names them, and so do its pictures. The parts are those of ``model``, changed in place. Raises BadInput,
    before anything is changed, for a LoRA that does not fit.
    """
    scales = {path: float(scale or 1) for path, scale in (_named(one, r"-?\d*\.?\d+") for one in loras)}
    chosen = {read_adapter(Path(path), model): scale for path, scale in scales.items()}
    if chosen:
        Merged(parts(model)).use(chosen)
    learned = [word for path, name in (_named(one, r"\w+") for one in words) for word in add_words(model, path, name)]
    named = {Path(path).name: scale for path, scale in scales.items()} | dict.fromkeys(learned, 1.0)
    return replace(model, card=replace(model.card, adapters={**model.card.adapters, **named}))


def _named(given: str, what: str) -> tuple[str, str]:
    """The file, and what stands behind its last colon if it is of that form."""
    found = re.fullmatch(rf"(.+?)(?::({what}))?", given)
    return (found[1], found[2] or "") if found else (given, "")
