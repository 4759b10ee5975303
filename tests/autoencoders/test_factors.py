"""Every compression factor of the paper, in both families; attention where it is asked for."""

import pytest
import torch

from safelight.autoencoders.kl import config as kl_config
from safelight.autoencoders.vq import config as vq_config
from safelight.errors import BadInput
from safelight.nn.conv_autoencoder import SpatialAttention

FAMILIES = {"kl": kl_config.Config, "vq": vq_config.Config}
FACTORS = [1, 2, 4, 8, 16, 32]


def built(family, factor, **changes):
    torch.manual_seed(0)
    shape = {"width": 8, "multipliers": (1,) * factor.bit_length(), "blocks": 1, "groups": 4}
    return FAMILIES[family](**shape, **changes).build()


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_each_factor_divides_and_gives_back_the_size(family, factor):
    autoencoder = built(family, factor, latent_channels=5)
    assert autoencoder.factor == factor
    images = torch.randn(1, 3, 3 * factor, 2 * factor, generator=torch.Generator().manual_seed(1))
    latents = autoencoder.encode(images).mode()
    assert latents.shape == (1, 5, 3, 2) == autoencoder.latent_shape((1, 3, 3 * factor, 2 * factor))
    again = autoencoder.decode(latents)
    assert again.shape == images.shape
    assert again.std() > 1e-3
    if factor > 1:
        with pytest.raises(
            BadInput, match=f"{family}: wanted a height and width that are multiples of {factor}"
        ):
            autoencoder.encode(images[..., :1])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_levels_attend_by_their_factor(family):
    autoencoder = built(family, 8, attention=(4, 8))
    images = torch.randn(1, 3, 32, 64)
    seen = []
    for half in (autoencoder.encoder, autoencoder.decoder):
        for one in half.modules():
            if isinstance(one, SpatialAttention):
                one.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-2:]))
    autoencoder.decode(autoencoder.encode(images).mode())
    last, before = (4, 8), (8, 16)
    assert seen == [
        before,
        last,
        last,
        last,
        last,
        last,
        before,
        before,
    ]  # the middles have one each


def test_the_middle_can_go_without_attention():
    kinds = [type(one) for one in built("vq", 4, middle=False).modules()]
    assert SpatialAttention not in kinds
    assert kinds.count(SpatialAttention) < [type(one) for one in built("vq", 4).modules()].count(
        SpatialAttention
    )
