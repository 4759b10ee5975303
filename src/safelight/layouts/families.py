"""The public families, of which ``families.toml`` is the table: by what each is known, what its
files cannot tell."""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelight.config import Slot, read
from safelight.settings import Settings

if TYPE_CHECKING:
    from safelight.diffusion.process import Process

SCHEDULE, PREDICTION = Slot("diffusion.schedule"), Slot("diffusion.prediction")


@dataclass(frozen=True)
class Family:
    """What is known of a family beside its weights, in the fields of ``families.toml``."""

    name: str
    title: str
    fits: Mapping[str, Any]
    schedule: Any
    prediction: Any
    scale: float
    licence: str
    shift: float = 0.0
    size: int = 512
    settings: Settings = field(default_factory=Settings)
    unsure: tuple[str, ...] = ()
    named: bool = False
    text: str = ""
    conditioner: Mapping[str, Any] | None = None
    bare: bool = False
    single: Mapping[str, Any] = field(default_factory=dict)
    folder: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    def process(self, prediction: Any = None) -> "Process":
        """Its schedule and prediction, or another prediction that the user knows of."""
        from safelight.diffusion.process import Process

        return Process(SCHEDULE.read(self.schedule), PREDICTION.read(prediction or self.prediction))

    def knows(self, kind: str, config: Any, companions: Collection[str] = ()) -> bool:
        """Whether a denoiser of this configuration is one of the family.

        ``companions``: what else its files hold.
        """
        if kind != self.fits["kind"] or (
            "beside" in self.fits and self.fits["beside"] not in companions
        ):
            return False
        declared = {
            name: wanted for name, wanted in self.fits.items() if name not in ("kind", "beside")
        }
        return all(_agrees(vars(config)[name], wanted) for name, wanted in declared.items())


@cache
def families() -> Mapping[str, Family]:
    """All families by name."""
    table = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
    for one in table.values():  # what a family is like stands above it
        if "like" in one:
            like = table[one.pop("like")]
            nested = {
                key: {**like[key], **one.get(key, {})}
                for key in ("fits", "single", "folder", "files")
            }
            nested["folder"] = {} if one.get("folder") == {} else nested["folder"]
            one |= {**like, **one, **nested}
    return {
        name: read(Family, {"name": name, **one}, f"families.toml {name}")
        for name, one in table.items()
    }


def family_of(kind: str, config: Any, companions: Collection[str] = ()) -> Family | None:
    """The family of a denoiser, the last that knows it; None if it is of none."""
    known = (one for one in reversed(list(families().values())) if not one.named)
    return next((one for one in known if one.knows(kind, config, companions)), None)


def _agrees(value: Any, wanted: Any) -> bool:
    """Whether a field has the value that is wanted: lists by their length, numbers also by whether
    they are 0."""
    if isinstance(value, tuple):
        value = len(value)
    return bool(value) == wanted if isinstance(wanted, bool) else bool(value == wanted)
