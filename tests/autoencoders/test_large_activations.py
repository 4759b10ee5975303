"""In bfloat16, whose range is that of float32, large activations never become NaN."""

import pytest
import torch

from safelight.autoencoders.kl.config import Config as KL
from safelight.autoencoders.vq.config import Config as VQ
from safelight.nn.conv_autoencoder import Residual


@torch.no_grad()
@pytest.mark.parametrize("config", [KL, VQ])
@pytest.mark.parametrize("factor", [1e5, 1e8])
def test_a_bf16_decode_of_large_activations_is_finite(config, factor):
    torch.manual_seed(0)
    part = config(width=16, multipliers=(1, 2), blocks=1, groups=4).build()
    latents = part.encode(torch.rand(1, 3, 32, 32)).mode()
    part.decoder.enter.weight.mul_(factor)
    for block in part.decoder.modules():
        if isinstance(block, Residual):  # what it adds to the stream, which no norm holds down
            block.conv2.weight.mul_(factor)
    largest = []
    handles = [
        one.register_forward_hook(lambda _, __, out: largest.append(out.abs().max()))
        for one in _convs(part)
    ]
    exact = part.decode(latents)
    for handle in handles:
        handle.remove()
    assert max(largest) > 1e4
    images = part.bfloat16().decode(latents)
    assert exact.isfinite().all()
    assert images.isfinite().all()
    assert (images - exact).norm() / exact.norm() < 0.1


def _convs(part):
    return [one for one in part.decoder.modules() if isinstance(one, torch.nn.Conv2d)]
