"""Settings: what was said, over what holds otherwise."""

from dataclasses import fields

import pytest

from safelight import Settings
from safelight.config import dump, read
from safelight.errors import BadInput
from safelight.settings import DEFAULTS, GUIDANCE, MOST_PICTURES, MOST_STEPS, SAMPLER, SPACING


def test_what_is_said_comes_before_what_holds_otherwise():
    base = Settings(steps=5, seed=3, sampler="heun")
    assert Settings(steps=7).over(base) == Settings(steps=7, seed=3, sampler="heun")
    assert Settings(seed=0, guidance=0).over(base) == Settings(
        steps=5, seed=0, sampler="heun", guidance=0
    )
    assert Settings().over(base) == base


def test_the_defaults_say_everything_and_can_be_resolved():
    assert all(vars(DEFAULTS)[f.name] is not None for f in fields(Settings))
    assert all(vars(Settings())[f.name] is None for f in fields(Settings))
    for slot, given in (
        (SAMPLER, DEFAULTS.sampler),
        (SPACING, DEFAULTS.spacing),
        (GUIDANCE, DEFAULTS.guidance),
    ):
        assert slot.write(slot.read(given))["kind"] in slot.kinds()


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("steps", 1, MOST_STEPS), ("count", 1, MOST_PICTURES), ("seed", 0, 2**63 - 1000)],
)
def test_numbers_have_bounds(name, least, most):
    assert vars(Settings(**{name: least}))[name] == least
    assert vars(Settings(**{name: most}))[name] == most
    for beyond in (least - 1, most + 1):
        with pytest.raises(
            BadInput, match=rf"{name}: wanted a whole number from {least} to .*, got {beyond:,}"
        ):
            Settings(**{name: beyond})


@pytest.mark.parametrize("guidance", [4.5, "4.5", "none", {"kind": "interval", "scale": 3.0}, None])
def test_settings_survive_being_written_and_read(guidance):
    settings = Settings(steps=5, sampler="euler:eta=1", guidance=guidance)
    assert read(Settings, dump(settings)) == settings


def test_every_field_is_explained():
    assert all(f.metadata["help"] for f in fields(Settings))
