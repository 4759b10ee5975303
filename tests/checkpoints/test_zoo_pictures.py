"""Latent diffusion's zoo with picture conditions: a small picture, a masked one, a class map."""

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file
from test_zoo import attending

from recorded import Recording, difference, error
from safelight import checkpoints
from safelight.checkpoints.plan import plan_load
from safelight.conditioners.segments import Config as Segments
from safelight.denoisers.unet.config import Config
from safelight.errors import BadInput
from safelight.layouts.unet import diffusers as diffusers_unet
from safelight.layouts.unet import ldm as ldm_unet
from safelight.types.networks import Condition, Prompt

SMALL = Config(3, 3, zoo.LEVELS, text_width=0)
PUBLIC = {  # of CompVis/latent-diffusion, with the parameters that arXiv 2112.10752 gives
    "bsr_sr": (Config(3, 3, attending(160, (1, 2, 2, 4), (0, 0, 0, 1), -32), text_width=0), None),
    "inpainting_big": (
        Config(
            3, 4, attending(256, (1, 2, 3, 4), (0, 1, 1, 1), 8), text_width=0, residual_resize=True
        ),
        387,
    ),
    "semantic_synthesis": (
        Config(3, 3, attending(128, (1, 4, 8), (0, 0, 0), 8), text_width=0),
        215,
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_network_is_inferred_at_full_size(name):
    config, millions = PUBLIC[name]
    with torch.device("meta"):
        state = config.build().state_dict()
    shapes = {
        key: tuple(one.shape) for key, one in ldm_unet.LAYOUTS[0].table(config).to_theirs(state)
    }
    assert ldm_unet.LAYOUTS[0].config(shapes, {}) == config
    assert millions in (None, round(sum(one.numel() for one in state.values()) / 1e6))


@torch.no_grad()
def test_a_small_picture_is_concatenated_as_in_diffusers(tmp_path, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setattr(Recording, "latest", "ldm-upscale")
    path = zoo.written(
        tmp_path / "sr.safetensors",
        zoo.network(SMALL),
        zoo.first_stage(),
        zoo.betas(0.0015, 0.0155),
    )
    model = checkpoints.read(path, {"head_width": 64})
    assert model.card.origin["family"] == "ldm-upscale"
    checkpoints.save(model, tmp_path / "folder", "diffusers")
    theirs = diffusers.LDMSuperResolutionPipeline.from_pretrained(str(tmp_path / "folder")).unet
    noisy, small, time = (
        torch.randn(2, 3, 8, 12),
        torch.randn(2, 3, 8, 12),
        torch.tensor([3.0, 801.0]),
    )
    want = theirs(torch.cat([noisy, small], dim=1), time).sample
    assert error(model.denoiser(noisy, time, Condition(channels=small)), want) < 1e-5
    again = checkpoints.read(tmp_path / "folder")
    assert (again.process, again.denoiser.config) == (model.process, model.denoiser.config)
    peer, file = (
        diffusers_unet.LAYOUTS[0],
        tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors",
    )
    assert (
        dict(peer.table(SMALL).to_theirs(model.denoiser.state_dict())).keys()
        == load_file(file).keys()
    )


def test_an_autoencoder_that_a_file_holds_twice_is_read_once_and_written_twice(tmp_path):
    config = Config(3, 4, zoo.LEVELS, text_width=0, residual_resize=True)
    once = zoo.first_stage()
    twice = {
        name.replace("first_stage_model", "cond_stage_model"): one for name, one in once.items()
    }
    path = zoo.written(tmp_path / "inpaint.safetensors", zoo.network(config), once, twice)
    model = checkpoints.read(path)
    assert model.card.origin["family"] == "ldm-inpaint"
    assert model.process.schedule.beta_end == 0.0205
    checkpoints.save(model, tmp_path / "again.safetensors", "single-file")
    first, second = load_file(path), load_file(tmp_path / "again.safetensors")
    assert second.keys() == first.keys()
    assert all(torch.equal(second[name], first[name]) for name in first)
    save_file(first | {"cond_stage_model.quant_conv.bias": torch.ones(3)}, path)
    assert len(plan_load([path], {}).parts) == 2  # from the header alone
    with pytest.raises(BadInput, match=r"is in its file twice, and quant_conv\.bias differs"):
        checkpoints.read(path)


@torch.no_grad()
def test_a_map_of_classes_becomes_channels(tmp_path):
    mapper = {"cond_stage_model.channel_mapper.weight": torch.randn(3, 5, 1, 1)}
    path = zoo.written(tmp_path / "map.safetensors", zoo.network(SMALL), zoo.first_stage(), mapper)
    model = checkpoints.read(path)
    assert model.card.origin["family"] == "ldm-segments"
    classes = torch.randint(0, 5, (16, 24))
    told = model.conditioner(
        [Prompt(given={"segments": classes}), Prompt(given={"picture_size": (16, 24)})]
    )
    weight = mapper["cond_stage_model.channel_mapper.weight"][:, :, 0, 0]
    by_pixel = (
        weight.T[classes].reshape(4, 4, 6, 4, 3).mean(dim=(1, 3)).movedim(-1, 0)
    )  # halving twice is their mean
    assert difference(told.channels[0], by_pixel) < 1e-5
    assert not told.channels[1].any()
    assert model.denoiser(torch.randn(2, 3, 4, 6), torch.ones(2), told).shape == (2, 3, 4, 6)
    checkpoints.save(model, tmp_path / "again.safetensors", "single-file")
    first, second = load_file(path), load_file(tmp_path / "again.safetensors")
    assert second.keys() == first.keys()
    assert all(torch.equal(second[name], first[name]) for name in first)


def test_a_map_that_is_none_is_refused():
    conditioner = Segments(classes=3).build()
    parts = torch.rand(3, 8, 8)
    assert conditioner([Prompt(given={"segments": parts})]).channels.shape == (1, 3, 2, 2)
    for wrong in (
        torch.full((8, 8), 3),
        torch.full((8, 8), -1),
        torch.rand(8, 8),
        torch.rand(2, 8, 8),
        [1, 2],
    ):
        with pytest.raises(BadInput, match=r"wanted a map \(h, w\) of classes from 0 to 2"):
            conditioner([Prompt(given={"segments": wrong})])
    with pytest.raises(BadInput, match="wanted at least 1 class, 1 channel"):
        Segments(classes=0)
