"""Where and how finely a model computes."""

import pytest
import torch

from safelight import runtime
from safelight.autoencoders.kl.config import Config
from safelight.errors import BadInput
from safelight.model import LatentDiffusion
from safelight.runtime import device_of, dtype_of, prepare

CPU = torch.device("cpu")


@pytest.mark.parametrize("there", [0, 1])
def test_auto_is_the_first_gpu_if_there_is_one(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(there))
    assert device_of("auto").type == ("cuda" if there else "cpu")
    assert device_of("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu:", "CPU"])
def test_a_device_that_has_no_such_name_is_refused(name):
    with pytest.raises(
        BadInput, match=rf"device: wanted auto, cpu, cuda, cuda:1 or mps, got '{name}'"
    ):
        device_of(name)


@pytest.mark.parametrize("name", ["cuda:1", "cuda:7", "mps", "meta", "cpu:3"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        BadInput,
        match=rf"device: '{name}' was asked for, but no such device can be used here; take",
    ):
        device_of(name)
    assert device_of("cuda:0") == torch.device("cuda:0")


def test_a_precision_has_a_name():
    assert dtype_of("fp32", CPU) == torch.float32
    assert dtype_of("bf16", CPU) == torch.bfloat16
    with pytest.raises(BadInput, match="unknown precision 'bf6'; did you mean 'bf16'"):
        dtype_of("bf6", CPU)


@pytest.mark.parametrize(("fast", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_auto_is_half_precision_where_that_is_fast(monkeypatch, fast, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert dtype_of("auto", CPU) == dtype
    assert not runtime._bf16_is_fast(torch.device("meta"))


def test_a_prepared_model_keeps_its_answers():
    torch.manual_seed(0)
    part = Config(width=8, multipliers=(1, 1), blocks=1, groups=4).build()
    images = torch.randn(2, 3, 8, 8)
    before = part.encode(images).mode().detach()
    model = LatentDiffusion(autoencoder=part)
    assert prepare(model, "cpu", "fp32") is model
    assert not part.training
    assert not any(parameter.requires_grad for parameter in part.parameters())
    assert part.encoder.enter.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(part.encode(images).mode(), before, atol=1e-5, rtol=1e-5)
    prepare(model, "cpu", "bf16")
    assert part.encoder.enter.weight.dtype == torch.bfloat16


def test_a_device_is_refused_before_anything_is_done():
    part = Config(width=8, multipliers=(1, 1), blocks=1, groups=4).build()
    with pytest.raises(BadInput, match="device"):
        prepare(LatentDiffusion(autoencoder=part), "gpu", "bf16")
    assert part.training
    assert part.encoder.enter.weight.dtype == torch.float32
