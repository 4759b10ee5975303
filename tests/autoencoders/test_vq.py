"""The VQ autoencoder against the implementation that it comes from, and what its codebook
promises."""

import pytest
import torch
from ldm_layout import body, is_close, renamed
from safetensors.torch import load_file

from making import go, metrics, recipe, tables
from recorded import Recording
from safelight.autoencoders.vq.config import Config
from safelight.checkpoints.state_dicts import load_strictly
from safelight.errors import BadInput
from safelight.nn.configs import Codes
from safelight.training.run import open_run
from safelight.types.networks import DiscreteAutoencoder

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4}


@pytest.mark.parametrize("name", ["f4", "f8"])
@torch.no_grad()
def test_it_gives_what_the_original_gives(name):
    recording = Recording("ldm-vq")
    given = recording.facts["config"][name]
    config = Config(**body(given), codebook=Codes(given["n_embed"]))
    autoencoder = config.build()
    scale = {
        key: value for key, value in autoencoder.state_dict().items() if key.startswith("scale.")
    }
    weights = renamed(recording.weights(f"{name}.safetensors"), config.pyramid)
    load_strictly(autoencoder, scale | weights, name)
    image = recording.inputs[f"{name}.image"]
    outputs = {key.removeprefix(f"{name}."): value for key, value in recording.outputs.items()}
    latents = autoencoder.encode(image).mode()
    assert is_close(latents, outputs["prequant"])
    assert torch.equal(autoencoder.indices(latents), outputs["indices"])
    assert is_close(autoencoder.lookup(outputs["indices"]), outputs["quantised"])
    assert is_close(autoencoder.decode(latents), outputs["decode"])
    assert is_close(autoencoder.decode(outputs["quantised"]), outputs["decode"])


@pytest.fixture(
    params=[{}, {"codebook": {"normalise": True}}, {"hidden_channels": 16}],
    ids=["plain", "unit", "wide"],
)
def autoencoder(request):
    torch.manual_seed(0)
    codes = Codes(**{"number": 64} | request.param.get("codebook", {}))
    return Config(**SMALL, **request.param | {"codebook": codes}).build()


def images(batch=2):
    return 2 * torch.rand(batch, 3, 8, 12, generator=torch.Generator().manual_seed(1)) - 1


@torch.no_grad()
def test_numbers_of_codes_go_in_and_out(autoencoder):
    assert isinstance(autoencoder, DiscreteAutoencoder)
    autoencoder.scale.measure([autoencoder.encode(images())])
    numbers = torch.arange(64).reshape(1, 8, 8)
    codes = autoencoder.lookup(numbers)
    assert codes.shape == (1, 3, 8, 8)
    assert torch.equal(autoencoder.indices(codes), numbers)
    latents = autoencoder.encode(images()).mode()
    rounded = autoencoder.lookup(autoencoder.indices(latents))
    torch.testing.assert_close(
        autoencoder.decode(rounded), autoencoder.decode(latents), atol=1e-5, rtol=1e-5
    )


def test_numbers_that_no_code_has_are_refused(autoencoder):
    for wrong in ([[[64, 0]]], [[[3, -1]]], [[[0.5, 1.0]]]):
        with pytest.raises(BadInput, match="whole numbers of codes from 0 to 63, got"):
            autoencoder.codebook.lookup(torch.tensor(wrong))


def test_the_gradient_goes_straight_through(autoencoder):
    latents = autoencoder.encode(images()).mean.detach().requires_grad_()
    rounded = autoencoder.codebook(latents)
    assert torch.equal(rounded, autoencoder.codebook.lookup(autoencoder.indices(latents)))
    push = torch.randn(rounded.shape, generator=torch.Generator().manual_seed(3))
    (got,) = torch.autograd.grad((rounded * push).sum(), latents)
    again = latents.detach().requires_grad_()
    (want,) = torch.autograd.grad((autoencoder.codebook.placed(again) * push).sum(), again)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("legacy", [False, True])
def test_its_cost_pulls_latents_and_codes_with_the_named_weights(legacy):
    torch.manual_seed(0)
    vq = Config(**SMALL, codebook=Codes(16), beta=0.25, legacy=legacy).build()
    latents = vq.encode(images()).mean.detach().requires_grad_()
    encoding = type(vq.encode(images()))(latents)
    (cost,) = vq.regularisers(encoding).values()
    apart = latents - vq.lookup(vq.indices(latents))
    torch.testing.assert_close(cost, 1.25 * apart.square().flatten(1).mean(1))
    cost.sum().backward()
    count = apart[0].numel()
    torch.testing.assert_close(latents.grad, 2 * (1 if legacy else 0.25) * apart.detach() / count)
    pulls = -2 * (0.25 if legacy else 1) * apart.detach() / count
    want = torch.zeros(16, 3).index_add_(
        0, vq.indices(latents).flatten(), pulls.movedim(1, -1).flatten(0, 2)
    )
    torch.testing.assert_close(vq.codebook.codes.grad, want)


def test_a_number_that_cannot_be_is_refused():
    with pytest.raises(BadInput, match="vq: wanted beta ≥ 0"):
        Config(beta=-1)
    with pytest.raises(BadInput, match="vq: every number wants to be at least 1"):
        Config(hidden_channels=-1)
    with pytest.raises(
        BadInput, match="attention wants levels by their factor, of \\[1, 2, 4\\], got \\(8,\\)"
    ):
        Config(attention=(8,))
    with pytest.raises(BadInput, match="codebook: wanted number ≥ 1"):
        Codes(0)


def test_weights_of_another_codebook_are_refused():
    state = Config(**SMALL, codebook=Codes(16)).build().state_dict()
    with pytest.raises(
        BadInput, match=r"m does not fit .*codebook.codes has shape \(16, 3\), wanted \(32, 3\)"
    ):
        load_strictly(Config(**SMALL, codebook=Codes(32)).build(), state, "m")


def discrete(pictures, **changes):
    tree = tables("reconstruction", pictures, **changes)
    codebook = {"number": 48, "decay": 0.9, "restart": 3}
    tree["objective"]["autoencoder"] = {"kind": "vq", **SMALL, "codebook": codebook}
    return tree


def test_it_trains_uses_its_codes_and_goes_on_to_the_bit(pictures, tmp_path):
    tree = discrete(pictures, loop__updates=20, watch__save=10, watch__write=1, rate__peak=4e-3)
    straight = go(tmp_path / "straight", recipe(tree))
    lines = [
        line["autoencoder/l1"] for line in metrics(straight.folder) if "autoencoder/l1" in line
    ]
    assert lines[-1] < 0.7 * lines[0]
    tree["loop"]["updates"] = 10
    go(tmp_path / "cut", recipe(tree))
    on = go(tmp_path / "cut", open_run(tmp_path / "cut", changes=("loop.updates=20",)).recipe)
    ours, theirs = (load_file(run.checkpoints[-1] / "state.safetensors") for run in (on, straight))
    assert {
        f"weights/autoencoder/codebook.{name}" for name in ("codes", "count", "total", "idle")
    } <= set(ours)
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def test_a_cost_that_the_autoencoder_does_not_have_is_refused(pictures, tmp_path):
    tree = discrete(pictures, objective__regularisers={"kl": 1e-6})
    with pytest.raises(
        BadInput, match=r"regulariser of a vq autoencoder in objective: 'kl'; known: quant"
    ):
        go(tmp_path / "run", recipe(tree))
