"""Hints: what the user states about files of other programs, where these do not."""

from collections.abc import Mapping
from typing import Any

from safelight import old_names
from safelight.errors import BadInput, unknown
from safelight.layouts.config_values import checked
from safelight.layouts.families import families

HINTS = {
    "family": "the family of the weights",
    "part": "what a file without prefixes holds: autoencoder, denoiser, tower, control, "
    "image_encoder",
    "prediction": "what the denoiser predicts: noise, v, clean, flow",
    "ema": "yes: the moving average of the weights, where a file holds it beside the last ones",
    "scale": "the scale of the latents",
    "shift": "the shift of the latents",
    "axes": "channels of a head that rotate with number, row and column (FLUX), as 16,56,56",
    "heads": "the number of attention heads, where widths are unusual",
    "head_width": "the width of a U-Net's attention heads, where widths are unusual",
    "text_head_width": "the width of a CLIP text encoder's heads, where widths are unusual",
    "embedders": "each: every block of a DiT has its own embedders, as trained with diffusers",
    "image_encoder_heads": "an image encoder's number of heads, where its width is unusual",
    "image_encoder_activation": "the activation of an image encoder's MLPs: gelu or quick_gelu",
    "shortcut": "yes: a FaceID Plus image prompt is of the second version",
    "licence": "the licence of the weights",
    "licence.autoencoder": "the licence of the autoencoder, if it has another",
    "licence.conditioner": "the licence of the text encoders, if they have another",
    "licence.denoiser": "the licence of the denoiser, if it has another",
}

YES_OR_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def check_hints(hints: Mapping[str, Any]) -> dict[str, Any]:
    """The hints by today's names, numbers as numbers; BadInput for one that is not known."""
    hints = old_names.TABLE.options("hint", hints)
    for name in hints:
        if name not in HINTS:
            raise unknown("hint", name, HINTS)
    values = checked(hints, "hint")
    if "family" in values and values["family"] not in families():
        raise unknown("family", hints["family"], families())
    return values


def wants_ema(hints: Mapping[str, Any]) -> bool:
    """Whether the moving average of the weights is to be read; BadInput if ema is not yes or no."""
    value = str(hints.get("ema", "no")).lower()
    if value not in YES_OR_NO:
        raise BadInput(f"hint ema: wanted yes or no, got {hints['ema']!r}.")
    return YES_OR_NO[value]
