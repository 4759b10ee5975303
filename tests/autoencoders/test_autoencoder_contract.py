"""What every autoencoder promises, asked of each file in the folder."""

from dataclasses import fields
from importlib import import_module

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from safelight.config import Slot
from safelight.errors import BadInput
from safelight.nn.configs import Codes
from safelight.types.networks import Autoencoder, Encoding

CONFIGS = {
    "dcae": {
        "widths": (8, 16, 16),
        "encoder_blocks": (1, 1, 1),
        "decoder_blocks": (1, 1, 1),
        "attend_from": 2,
        "scales": (3,),
        "head": 8,
        "latent_channels": 4,
    },
    "identity": {},
    "kl": {"width": 8, "multipliers": (1, 2, 2), "blocks": 1, "groups": 4},
    "tiny": {"width": 8, "blocks": 1, "levels": 2},
    "vq": {"width": 8, "multipliers": (1, 2, 2), "blocks": 1, "groups": 4, "codebook": Codes(32)},
}
SIZES = [(16, 16), (8, 24), (20, 4)]  # height and width; the small configs have a factor of 4, or 1
NOT_SIZES = [(16, 18), (17, 16), (3, 16), (0, 16)]


def test_every_kind_has_a_small_config_here():
    kinds = {kind.replace("-", "_") for kind in Slot("autoencoders").kinds()}
    assert kinds == set(CONFIGS), (
        "add a small config to CONFIGS for each autoencoder, so that its contract is tested"
    )


def fresh(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return import_module(f"safelight.autoencoders.{kind}.config").Config(**CONFIGS[kind]).build()


@pytest.fixture(params=CONFIGS)
def kind(request):
    return request.param


@pytest.fixture
def autoencoder(kind):
    return fresh(kind)


def images(batch: int = 3, height: int = 16, width: int = 16) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return 2 * torch.rand(batch, 3, height, width, generator=draw) - 1


def both(encoding: Encoding) -> list[Tensor]:
    return [encoding.mean] if encoding.deviation is None else [encoding.mean, encoding.deviation]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_shapes_are_what_it_says_they_are(autoencoder, height, width):
    assert isinstance(autoencoder, Autoencoder)
    given = images(2, height, width)
    encoding = autoencoder.encode(given)
    assert tuple(encoding.mode().shape) == autoencoder.latent_shape(tuple(given.shape))
    assert all(
        part.shape == encoding.mean.shape and part.isfinite().all() for part in both(encoding)
    )
    decoded = autoencoder.decode(encoding.mode())
    assert decoded.shape == given.shape
    assert decoded.isfinite().all()
    assert decoded.std() > 1e-4


def test_the_mode_is_always_the_same_and_depends_on_the_images(autoencoder):
    first, again = autoencoder.encode(images()), autoencoder.encode(images())
    assert torch.equal(first.mode(), again.mode())
    assert not torch.allclose(first.mode(), autoencoder.encode(images().flip(-1)).mode(), atol=1e-4)
    assert torch.equal(autoencoder.decode(first.mode()), autoencoder.decode(first.mode()))


def test_a_sample_lies_about_the_mode(autoencoder):
    encoding = autoencoder.encode(images())
    noise = torch.randn(encoding.mean.shape, generator=torch.Generator().manual_seed(2))
    sample = encoding.sample(noise)
    if encoding.deviation is None:
        assert torch.equal(sample, encoding.mode())
    else:
        assert encoding.deviation.min() > 0
        torch.testing.assert_close(
            (sample - encoding.mean) / encoding.deviation, noise, atol=1e-4, rtol=1e-4
        )


def test_an_image_does_not_know_its_batch(autoencoder):
    together = autoencoder.encode(images())
    for row in range(3):
        alone = autoencoder.encode(images()[row : row + 1])
        for one, all_ in zip(both(alone), both(together), strict=True):
            torch.testing.assert_close(one[0], all_[row], atol=1e-5, rtol=1e-5)
        decoded = autoencoder.decode(together.mode()[row : row + 1])[0]
        torch.testing.assert_close(
            decoded, autoencoder.decode(together.mode())[row], atol=1e-5, rtol=1e-5
        )


def test_its_costs_are_each_picture_s_own_and_do_not_depend_on_the_scale(autoencoder):
    costs = autoencoder.regularisers(autoencoder.encode(images()))
    assert all(cost.shape == (3,) and cost.isfinite().all() for cost in costs.values())
    alone = autoencoder.regularisers(autoencoder.encode(images()[1:2]))
    autoencoder.scale.measure([autoencoder.encode(images())])
    scaled = autoencoder.regularisers(autoencoder.encode(images()))
    for name, cost in costs.items():
        torch.testing.assert_close(alone[name][0], cost[1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scaled[name], cost, atol=1e-5, rtol=1e-4)


def test_a_size_that_it_cannot_make_is_named(autoencoder):
    factor = autoencoder.factor
    wrong = [
        (height, width)
        for height, width in NOT_SIZES
        if not height or height % factor or width % factor
    ]
    assert (0, 16) in wrong
    for height, width in wrong:
        told = rf"wanted a height and width that are multiples of {factor}, got {width}×{height}"
        with pytest.raises(BadInput, match=told):
            autoencoder.latent_shape((2, 3, height, width))
        with pytest.raises(BadInput, match=told):
            autoencoder.encode(torch.zeros(1, 3, height, width))


def test_other_channels_are_refused(autoencoder):
    with pytest.raises(BadInput, match="wanted images of 3 channels, got 4"):
        autoencoder.encode(torch.zeros(1, 4, 16, 16))


def test_a_gradient_reaches_every_parameter(autoencoder):
    given = images().requires_grad_()
    encoding = autoencoder.encode(given)
    again = autoencoder.decode(encoding.sample(torch.ones_like(encoding.mean)))
    (
        (again - images().flip(-1)).square().sum()
        + sum(c.sum() for c in autoencoder.regularisers(encoding).values())
    ).backward()
    assert given.grad.abs().max() > 0
    unreached = [
        n for n, p in autoencoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert unreached == []


def test_its_last_weight_is_one_of_its_own_next_to_the_pictures(autoencoder):
    last = autoencoder.last_layer
    assert last is None or any(last is p for p in autoencoder.parameters())
    assert last is None or len(last) % 3 == 0


def test_all_that_it_knows_travels_through_safetensors(kind, autoencoder):
    other = fresh(kind, seed=1)
    autoencoder.scale.measure([autoencoder.encode(images())])
    assert not torch.equal(autoencoder.encode(images()).mode(), other.encode(images()).mode())
    other.load_state_dict(load(save(autoencoder.state_dict())))
    latents = autoencoder.encode(images()).mode()
    assert torch.equal(latents, other.encode(images()).mode())
    assert torch.equal(autoencoder.decode(latents), other.decode(latents))


def test_half_precision_stays_near(autoencoder):
    exact = autoencoder.encode(images())
    decoded = autoencoder.decode(exact.mode())
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = (autoencoder.encode(images()).mode(), autoencoder.decode(exact.mode()))
    rounds = any(True for _ in autoencoder.parameters())
    autoencoder.bfloat16()
    in_bf16 = (autoencoder.encode(images()).mode(), autoencoder.decode(exact.mode()))
    for latents, pictures in (under_autocast, in_bf16):
        assert latents.dtype == pictures.dtype == torch.float32
        for got, want in ((latents, exact.mode()), (pictures, decoded)):
            error = (got - want).norm() / want.norm()
            assert error < 0.05
            assert (error > 0) == rounds
    assert autoencoder.decode(exact.mode().bfloat16()).dtype == torch.bfloat16


def test_measured_latents_have_zero_mean_and_unit_variance(autoencoder):
    some, more = images(4), images(3, 8, 24) * 0.5
    encodings = [autoencoder.encode(some), autoencoder.encode(more)]
    before = [autoencoder.decode(encoding.mode()) for encoding in encodings]
    for _ in range(2):  # measuring again changes nothing
        autoencoder.scale.measure([autoencoder.encode(some), autoencoder.encode(more)])
        encodings = [autoencoder.encode(some), autoencoder.encode(more)]
        flat = torch.cat(
            [one.mean.transpose(0, 1).flatten(1) for one in encodings], dim=1
        )  # (c, n)
        spreads = [
            torch.zeros_like(one.mean) if one.deviation is None else one.deviation
            for one in encodings
        ]
        spread = (
            torch.cat([one.transpose(0, 1).flatten(1) for one in spreads], dim=1).square().mean(1)
        )
        torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), atol=1e-3, rtol=0)
        variance = flat.var(1, correction=0) + spread  # of samples
        torch.testing.assert_close(variance, torch.ones(len(flat)), atol=1e-3, rtol=0)
        for encoding, pictures in zip(encodings, before, strict=True):
            torch.testing.assert_close(
                autoencoder.decode(encoding.mode()), pictures, atol=1e-4, rtol=0
            )


def test_a_constant_channel_can_be_measured(autoencoder):
    channels = autoencoder.latent_shape((1, 3, 16, 16))[1]
    autoencoder.scale.measure([Encoding(torch.ones(2, channels, 3, 3))])
    assert autoencoder.scale.mean.tolist() == [1] * channels
    assert (autoencoder.scale.deviation > 0).all()
    assert autoencoder.encode(images()).mode().isfinite().all()


def test_a_number_that_cannot_be_is_refused(kind):
    config = import_module(f"safelight.autoencoders.{kind}.config").Config
    names = {"channels", "latent_channels", "width", "blocks", "head"} & {
        field.name for field in fields(config)
    }
    assert names
    for name in names:
        with pytest.raises(BadInput, match=f"{kind}: every number wants to be at least 1"):
            config(**CONFIGS[kind] | {name: 0})
