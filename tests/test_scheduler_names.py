"""What other programs call samplers and spacings, in our names."""

import pytest

from safelight import scheduler_names
from safelight.errors import BadInput
from safelight.scheduler_names import SAMPLERS, SPACINGS, find, read
from safelight.settings import SAMPLER, SPACING


@pytest.mark.parametrize(
    ("name", "sampler", "spacing"),
    [
        ("DPM++ 2M Karras", "dpmpp2m", "karras"),
        ("dpmpp_2m + karras", "dpmpp2m", "karras"),
        ("dpmpp_2m_sde_gpu", "dpmpp2m-sde", None),
        ("dpmpp_2m_sde_k", "dpmpp2m-sde", "karras"),
        ("k_dpmpp_2m_sde", "dpmpp2m-sde", None),
        ("DPM++ 2M SDE Heun Exponential", "dpmpp2m-sde:rule=heun", "exponential"),
        ("Euler a", "euler-ancestral", None),
        ("euler_ancestral", "euler-ancestral", None),
        ("sample_euler_ancestral", "euler-ancestral", None),
        ("euler / sgm_uniform", "euler", "uniform"),
        ("uni_pc_bh2", "unipc", None),
        ("DPMSolverMultistepScheduler", "dpmpp2m", None),
        ("DPMSolverMultistepScheduler karras", "dpmpp2m", "karras"),
        ("EulerAncestralDiscreteScheduler", "euler:eta=1", None),
        ("normal", None, "linspace"),
        ("Karras", None, "karras"),
    ],
)
def test_names_of_other_programs(name, sampler, spacing):
    assert find(name) == read(name) == (sampler, spacing)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("DPM++ 2M Kerras", "did you mean 'DPM++ 2M Karras'?"),
        ("euler_ancestrl", "did you mean 'Euler ancestral'?"),
        ("DPMSolverMultistep", "did you mean 'DPMSolverMultistepScheduler'?"),
        ("☃", "known: DDIM, DDIMScheduler,"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name, wanted):
    assert find(name) is None
    with pytest.raises(BadInput) as refused:
        read(name)
    assert str(refused.value).startswith(f"unknown scheduler {name!r}; ")
    assert wanted in str(refused.value)


def test_every_name_means_a_sampler_or_a_spacing_of_ours():
    for name, ours in SAMPLERS.items():
        assert SAMPLER.read(ours) == SAMPLER.read(find(name).sampler)
    for name, ours in SPACINGS.items():
        assert SPACING.read(ours) == SPACING.read(find(name).spacing)
    assert scheduler_names.DIFFUSERS.items() <= SAMPLERS.items()
