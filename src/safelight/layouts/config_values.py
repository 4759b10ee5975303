"""Checks fields of a folder's config.json and hints of the user: texts and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safelight.errors import BadInput


@dataclass(frozen=True)
class Number:
    """What a number must be: from ``low`` to ``high``, ``whole`` or not; a list where there may be
    ``several``."""

    low: float
    high: float
    whole: bool = True
    several: bool = False

    def read(self, value: Any) -> Any:
        """The number, or the list of numbers; a hint's are text. Raises ValueError if it is
        none."""
        if self.several and isinstance(value, str) and "," in value:
            value = value.split(",")
        if self.several and isinstance(value, list | tuple):
            if not 0 < len(value) <= MOST:
                raise ValueError
            return [self._one(one) for one in value]
        return self._one(value)

    def _one(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
        if not self.low <= number <= self.high or (self.whole and number != int(number)):
            raise ValueError
        return int(number) if self.whole else number

    def __str__(self) -> str:
        several = ", or a list of such" if self.several else ""
        return (
            f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}{several}"
        )


@dataclass(frozen=True)
class Text:
    """A word is wanted, one of ``key_names`` if there are any."""

    key_names: tuple[str, ...] = ()

    def read(self, value: Any) -> str:
        """The word. Raises ValueError if it is none, or another."""
        if not isinstance(value, str) or (self.key_names and value not in self.key_names):
            raise ValueError
        return value

    def __str__(self) -> str:
        return " or ".join(self.key_names) or "a word"


MOST = 64  # numbers in a list
COUNT, COUNTS = Number(1, 1 << 16), Number(1, 1 << 16, several=True)
EPS, SCALE, SHIFT = (
    Number(1e-12, 1, whole=False),
    Number(1e-6, 1e6, whole=False),
    Number(-1e6, 1e6, whole=False),
)

KNOWN: Mapping[str, Number | Text] = {
    "_class_name": Text(),
    "adapter_type": Text(),
    "attention_head_dim": COUNTS,
    "axes": COUNTS,
    "axes_dims_rope": COUNTS,
    "downscale_factor": COUNT,
    "embedders": Text(),
    "eps": EPS,
    "image_encoder_activation": Text(("gelu", "quick_gelu")),
    "image_encoder_heads": COUNT,
    "family": Text(),
    "groups": COUNT,
    "head_width": COUNT,
    "head_dim": COUNT,
    "heads": COUNTS,
    "hidden_act": Text(),
    "latents_mean": Number(-1e6, 1e6, whole=False, several=True),
    "latents_std": Number(1e-6, 1e6, whole=False, several=True),
    "norm_eps": EPS,
    "norm_num_groups": COUNT,
    "num_attention_heads": COUNTS,
    "prediction": Text(),
    "relative_attention_max_distance": COUNT,
    "sample_size": COUNTS,
    "scale": SCALE,
    "scaling_factor": SCALE,
    "shift": SHIFT,
    "shift_factor": SHIFT,
    "text_head_width": COUNT,
}
"""The fields of any layout that are read, and their values."""


def checked(
    declared: Mapping[str, Any], where: str, known: Mapping[str, Number | Text] = KNOWN
) -> dict[str, Any]:
    """What is said, its numbers as numbers; what is said to be null is not said. BadInput for what
    cannot be."""
    found = {
        name: value for name, value in declared.items() if value is not None or name not in known
    }
    for name in known.keys() & found:
        try:
            found[name] = known[name].read(found[name])
        except (ValueError, OverflowError):
            got = shortened(found[name])
            raise BadInput(
                f"{where}: {name} must be {known[name]}, got {got}; put it right or leave it out."
            ) from None
    return found


def alone(declared: Mapping[str, Any], name: str, otherwise: int) -> int:
    """A number that may be a list elsewhere; BadInput if it is one."""
    value = declared.get(name, otherwise)
    if isinstance(value, list):
        raise BadInput(
            f"{name}: wanted one number for this part, got {value}; put it right or leave it out."
        )
    return int(value)


def heads(width: int, declared: Mapping[str, Any]) -> int:
    """How many heads a text encoder has: by the user's hint, the folder's config, else 64 wide."""
    if "text_head_width" in declared:
        return max(1, width // int(declared["text_head_width"]))
    return alone(declared, "num_attention_heads", max(1, width // 64))


def shortened(value: Any) -> str:
    """A value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) < 80 else f"{shown[:60]} …"
