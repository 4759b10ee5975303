"""What every denoiser promises, asked of each file in the folder."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from safelight.config import Slot, read
from safelight.diffusion.guidance.distilled import Distilled
from safelight.errors import BadInput
from safelight.types.networks import Condition, Denoiser, Tokens

SMALL = {
    "width": 32,
    "depth": 2,
    "heads": 2,
    "text_width": 8,
    "vector_width": 5,
    "extra_channels": 2,
}
TWO_STREAMS = {
    "channels": 4,
    "width": 32,
    "depth": 3,
    "heads": 2,
    "text_width": 8,
    "vector_width": 5,
    "side": 8,
}
FLUX = {"channels": 4, "width": 32, "axes": (4, 6, 6), "double": 1, "single": 2, "text_width": 8}
UNET = {
    "levels": [{"width": 32, "depth": 1, "heads": 2}, {"width": 64, "depth": 2, "heads": 4}],
    "norm": {"groups": 8},
    "blocks": 1,
    "text_width": 8,
}
WIDE = {"vector_width": 5, "extra_channels": 2, "classes": 3}
CONFIGS = {
    "dit": {
        "cross": SMALL,
        "joint": SMALL | {"text": "joint"},
        "shared": SMALL | {"modulation": "shared"},
        "closed": {"width": 32, "depth": 2, "heads": 2, "text": "none"},
    },
    "mmdit": {
        "sd3": TWO_STREAMS | {"qk_norm": False},
        "sd35": TWO_STREAMS | {"dual": (0,)},
    },
    "flux": {
        "dev": FLUX | {"vector_width": 5, "extra_channels": 2},
        "schnell": FLUX | {"vector_width": 5, "guidance": False},
        "second": FLUX | {"axes": (4, 4, 4, 4), "vector_width": 0, "generation": 2},
    },
    "unet": {
        "levels": UNET
        | WIDE
        | {"levels": [UNET["levels"][0] | {"text_only": True}, UNET["levels"][1]]},
        "modulated": UNET
        | WIDE
        | {"norm": UNET["norm"] | {"modulated": True}, "residual_resize": True},
        "guided": UNET
        | {
            "guidance": 6,
            "middle": -1,
            "levels": [UNET["levels"][0] | {"up": [0, 2]}, UNET["levels"][1]],
        },
        "plain": UNET
        | {"text_width": 0, "levels": [{"width": 32, "depth": 0}, {"width": 64, "heads": 4}]},
    },
    "plain_dit": {
        "classes": {
            "width": 32,
            "depth": 2,
            "heads": 2,
            "side": 4,
            "classes": 5,
            "embedders": "each",
        },
        "sit": {"width": 32, "depth": 2, "heads": 2, "variance": "ignored", "to_clean": True},
    },
}
OPEN = {"cross": ("tokens", "vector", "channels"), "closed": ()}
OPEN |= {"joint": OPEN["cross"], "shared": OPEN["cross"]}
OPEN |= dict.fromkeys(("sd3", "sd35"), ("tokens", "vector", "residuals"))
OPEN |= {
    "dev": ("tokens", "vector", "channels", "scalars", "references", "residuals"),
    "schnell": ("tokens", "vector", "references", "residuals"),
}
OPEN |= {"second": ("tokens", "scalars", "references", "residuals")}
OPEN |= dict.fromkeys(
    ("levels", "modulated"), ("tokens", "vector", "channels", "scalars", "residuals")
)
OPEN |= {"plain": ("residuals",)}
U_NETS = CONFIGS["unet"]
OPEN |= {"classes": ("scalars",), "sit": ()}
OPEN |= {"guided": ("tokens", "scalars", "residuals")}
HEARS = {"classes": "label"} | dict.fromkeys(U_NETS, "noise_level") | {"guided": "guidance"}
CASES = [(kind, case) for kind, cases in CONFIGS.items() for case in cases]
WAYS = ("tokens", "streams", "vector", "scalars", "channels", "references", "residuals")


def test_every_kind_has_small_configs_here():
    kinds = {kind.replace("-", "_") for kind in Slot("denoisers").kinds()}
    assert kinds == set(CONFIGS), (
        "add a small config to CONFIGS for each denoiser, so that its contract is tested"
    )


def fresh(kind: str, case: str) -> nn.Module:
    torch.manual_seed(0)
    return read(
        import_module(f"safelight.denoisers.{kind}.config").Config, CONFIGS[kind][case]
    ).build()


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    return request.param[1]


@pytest.fixture
def network(request, case):
    """A small network that has left its initial zeros."""
    kind, _ = request.node.callspec.params["case"]
    network = fresh(kind, case)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def every_way(case: str, batch: int = 3, space=(6, 10), words: int = 8) -> dict[str, object]:
    """Something for each way in; the second text is shorter than the others."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(batch, words, dtype=torch.bool)
    mask[1:2, 3:] = False
    tokens = Tokens(torch.randn(batch, words, 8, generator=draw), mask)
    guidance = 3 * torch.rand(batch, generator=draw) + 2
    return {
        "tokens": tokens,
        "streams": (tokens,),
        "vector": torch.randn(batch, 5, generator=draw),
        "scalars": {HEARS[case]: torch.arange(batch) % 3 * 1.0}
        if case in HEARS
        else {"guidance": guidance},
        "channels": torch.randn(batch, 2, *space, generator=draw),
        "references": (torch.randn(batch, 4, *space, generator=draw),),
        "residuals": tuple(
            torch.randn(batch, *shape, generator=draw) for shape in residuals(case, *space)
        ),
    }


def residuals(case: str, height: int, width: int) -> list[tuple[int, ...]]:
    """What is added inside a network: patches of two streams, or the features of the small U-Nets
    here."""
    if case not in U_NETS:
        return [(height * width // 4, 32)]
    return [
        (wide, height // s, width // s) for wide, s in ((32, 1), (32, 1), (32, 2), (64, 2), (64, 2))
    ]


def condition(case: str, batch: int = 3, space=(6, 10)) -> Condition:
    """A condition that opens all that the network takes."""
    return Condition(
        **{
            name: value
            for name, value in every_way(case, batch, space).items()
            if name in OPEN[case]
        }
    )


def latents(batch: int = 3, space=(6, 10)) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(batch, 4, *space, generator=draw), 1000 * torch.rand(batch, generator=draw)


def only(given: Condition, i: int) -> Condition:
    """What one sample of a batch is told."""
    tokens = given.tokens and Tokens(given.tokens.values[i : i + 1], given.tokens.mask[i : i + 1])
    return Condition(
        tokens,
        vector=None if given.vector is None else given.vector[i : i + 1],
        scalars={name: value[i : i + 1] for name, value in given.scalars.items()},
        channels=None if given.channels is None else given.channels[i : i + 1],
        references=tuple(one[i : i + 1] for one in given.references),
        residuals=tuple(one[i : i + 1] for one in given.residuals),
    )


@pytest.mark.parametrize("space", [(6, 10), (2, 2), (14, 6)])
def test_the_answer_has_the_shape_and_precision_of_the_latents(network, case, space):
    noisy, time = latents(space=space)
    answer = network(noisy, time, condition(case, space=space))
    assert isinstance(network, Denoiser)
    assert answer.shape == noisy.shape
    assert answer.dtype == noisy.dtype
    assert network(noisy.double(), time, condition(case, space=space)).dtype == torch.float64
    assert answer.isfinite().all()
    assert answer.std() > 1e-3


def test_time_and_latents_matter(network, case):
    noisy, time = latents()
    answer = network(noisy, time, condition(case))
    assert not torch.allclose(answer, network(noisy, time + 100, condition(case)), atol=1e-3)
    assert not torch.allclose(answer, network(noisy.flip(-1), time, condition(case)), atol=1e-3)


def test_guidance_that_it_does_not_hear_is_refused_when_a_run_is_set_up(network, case):
    assert isinstance(network, Denoiser)
    assert ("scalars" in OPEN[case]) == bool(network.scalar_names)
    with pytest.raises(BadInput, match="needs a network that takes the scalar 'brightness'"):
        Distilled(2.0, "brightness").begin(lambda by: network)


@pytest.mark.parametrize("way", WAYS)
def test_an_open_way_in_changes_the_answer_and_a_closed_one_is_refused(network, case, way):
    noisy, time = latents()
    given = Condition(**{way: every_way(case)[way]})
    if way in OPEN[case]:
        assert not torch.allclose(
            network(noisy, time, given), network(noisy, time, Condition()), atol=1e-3
        )
    else:
        with pytest.raises(BadInput, match=way):
            network(noisy, time, given)


def test_a_sample_does_not_know_its_batch(network, case):
    noisy, time = latents()
    together = network(noisy, time, condition(case))
    given = condition(case)
    for i in range(3):
        alone = network(noisy[i : i + 1], time[i : i + 1], only(given, i))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


def test_preparing_ahead_changes_nothing(network, case):
    noisy, time = latents()
    prepared = network.prepare(condition(case))
    assert torch.equal(network(noisy, time, prepared), network(noisy, time, condition(case)))
    if prepared.tokens is not None:
        assert prepared.tokens.projected
        assert all(tensor.shape[:2] == (3, 8) for tensor in prepared.tokens.projected)
        blank = replace(prepared.tokens, values=torch.zeros_like(prepared.tokens.values))
        again = network(noisy, time, replace(prepared, tokens=blank))
        assert torch.equal(again, network(noisy, time, prepared)), (
            "a prepared condition was projected again"
        )


def test_masked_tokens_are_not_seen(network, case):
    given = condition(case)
    if given.tokens is None:
        pytest.skip("takes no tokens")
    noisy, time = latents()
    values = given.tokens.values.clone()
    values[1, 3:] = 7
    masked = replace(given, tokens=Tokens(values, given.tokens.mask))
    seen = replace(given, tokens=Tokens(values, torch.ones_like(given.tokens.mask)))
    answer = network(noisy, time, given)
    torch.testing.assert_close(network(noisy, time, masked), answer, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(network(noisy, time, seen)[1], answer[1], atol=1e-3)


def test_half_precision_stays_near(network, case):
    noisy, time = latents()
    exact = network(noisy, time, condition(case))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = network(noisy, time, condition(case))
    in_bf16 = network.bfloat16()(noisy, time, condition(case))
    for answer in (under_autocast, in_bf16):
        assert answer.dtype == torch.float32
        assert 0 < (answer - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_weights_travel_through_safetensors(kind, case):
    first, second = fresh(kind, case), fresh(kind, case)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    noisy, time = latents()
    assert not torch.equal(
        first(noisy, time, condition(case)), second(noisy, time, condition(case))
    )
    second.load_state_dict(load(save(first.state_dict())))
    assert torch.equal(first(noisy, time, condition(case)), second(noisy, time, condition(case)))


def test_a_gradient_reaches_every_parameter(network, case):
    noisy, time = latents()
    network(noisy, time, condition(case)).square().sum().backward()
    unreached = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert unreached == []


@pytest.mark.slow
def test_it_compiles_as_one_graph(network, case):
    noisy, time = latents()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    answer = compiled(noisy, time, condition(case))
    torch.testing.assert_close(answer, network(noisy, time, condition(case)), atol=1e-4, rtol=1e-3)
