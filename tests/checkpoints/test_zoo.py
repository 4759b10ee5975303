"""Conditional models of latent diffusion's zoo: read, run, and written bit for bit."""

import pytest
import torch
import zoo
from safetensors.torch import load_file

import safelight
from recorded import Recording, difference, error
from safelight import checkpoints
from safelight.checkpoints.plan import plan_load
from safelight.denoisers.unet.config import Config, Level
from safelight.diffusion.schedule import ScaledLinear
from safelight.errors import BadInput
from safelight.inspection import inspect
from safelight.layouts.unet import ldm as ldm_unet
from safelight.types.networks import Prompt

CLASSES = Config(channels=3, levels=zoo.LEVELS, text_width=16, linear=False)


def attending(base, multipliers, attends, heads, depth=1):
    """Levels of so many times a width; ``heads``, or below 0 their width."""
    widths = [base * many for many in multipliers]
    each = [heads if heads > 0 else width // -heads for width in widths]
    return tuple(
        Level(*one) for one in zip(widths, (depth * yes for yes in attends), each, strict=True)
    )


PUBLIC = {  # of CompVis/latent-diffusion, with millions of parameters of the U-Net
    "cin256-v2": (
        Config(3, 0, attending(192, (1, 2, 3, 5), (0, 1, 1, 1), 1), text_width=512, linear=False),
        400.92,
    ),
    "cin256": (
        Config(4, 0, attending(256, (1, 2, 4), (1, 1, 1), -32), text_width=512, linear=False),
        395,
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_network_is_inferred_at_full_size(name):
    config, millions = PUBLIC[name]
    with torch.device("meta"):
        network = config.build()
    counted = sum(one.numel() for one in network.parameters()) / 1e6
    assert counted == pytest.approx(millions, abs=0.005 if millions % 1 else 0.5)
    shapes = {
        key: tuple(one.shape)
        for key, one in ldm_unet.LAYOUTS[0].table(config).to_theirs(network.state_dict())
    }
    assert ldm_unet.LAYOUTS[0].config(shapes, {}) == config


@pytest.fixture
def classes(tmp_path):
    table = {"cond_stage_model.embedding.weight": torch.randn(7, 16)}
    return zoo.written(
        tmp_path / "cin.safetensors", zoo.network(CLASSES), zoo.first_stage(), table, zoo.betas()
    )


@torch.no_grad()
def test_a_class_is_a_token_and_the_last_row_is_none(classes):
    model = checkpoints.read(classes, {"heads": 1})
    assert (model.card.origin["family"], model.card.settings.guidance) == ("ldm-class", 3.0)
    table = load_file(classes)["cond_stage_model.embedding.weight"]
    prompts = [Prompt("4"), Prompt(given={"label": 0}), Prompt()]
    told = model.conditioner(prompts)
    assert torch.equal(told.tokens.values, table[[4, 0, 6]][:, None])
    assert torch.equal(
        model.conditioner.null_condition(prompts).tokens.values[:, 0], table[[6, 6, 6]]
    )
    assert told.vector is None
    assert told.tokens.mask.all()
    assert told.tokens.mask.shape == (3, 1)
    with pytest.raises(BadInput, match="unknown class '6'"):
        model.conditioner([Prompt("6")])


@torch.no_grad()
def test_a_class_conditions_as_in_diffusers(classes, monkeypatch):
    monkeypatch.setattr(Recording, "latest", "ldm-class")
    diffusers = pytest.importorskip("diffusers")
    from safelight.layouts.unet import diffusers as diffusers_unet

    model, peer = checkpoints.read(classes, {"heads": 1}), diffusers_unet.LAYOUTS[0]
    said = dict(peer.describe(CLASSES))
    said.pop("_class_name")
    theirs = diffusers.UNet2DConditionModel(**said)
    theirs.load_state_dict(dict(peer.table(CLASSES).to_theirs(model.denoiser.state_dict())))
    told, noisy, time = (
        model.conditioner([Prompt("4"), Prompt()]),
        torch.randn(2, 3, 8, 8),
        torch.tensor([3.0, 801.0]),
    )
    want = theirs(
        noisy, time, load_file(classes)["cond_stage_model.embedding.weight"][[4, 6]][:, None]
    ).sample
    assert error(model.denoiser(noisy, time, told), want) < 1e-5


def test_a_class_becomes_a_guided_picture_and_the_file_comes_back(classes, tmp_path):
    model = safelight.load(classes, "cpu", "fp32", {"heads": 1})
    task = [safelight.TextToImage(prompt=name, width=16, height=16) for name in ("4", "5", "4")]
    runs = [
        safelight.generate(model, one, safelight.Settings(steps=2))[0].tobytes() for one in task
    ]
    assert runs[0] == runs[2] != runs[1]
    checkpoints.save(model, tmp_path / "native")
    checkpoints.save(
        checkpoints.read(tmp_path / "native"), tmp_path / "again.safetensors", "single-file"
    )
    again, first = load_file(tmp_path / "again.safetensors"), load_file(classes)
    assert again.keys() == first.keys() - {"betas"}
    assert all(torch.equal(again[name], first[name]) for name in again)
    with pytest.raises(BadInput, match="diffusers has no folder of Latent diffusion, ImageNet"):
        checkpoints.save(model, tmp_path / "folder", "diffusers")


def test_a_file_taught_a_class_in_every_picture_knows_no_other(tmp_path):
    config = Config(channels=4, levels=zoo.LEVELS, text_width=16, linear=False)
    table = {"cond_stage_model.embedding.weight": torch.randn(1000, 16)}
    path = zoo.written(tmp_path / "cin.safetensors", zoo.network(config), table)
    model = checkpoints.read(path, {"heads": 1})
    assert (model.card.origin["family"], model.card.settings.guidance) == ("ldm-class-f8", "none")
    assert torch.equal(
        model.conditioner([Prompt("999")]).tokens.values[0, 0], table.popitem()[1][999]
    )
    with pytest.raises(
        BadInput, match="trained with a class for every picture: name one, and set guidance to none"
    ):
        model.conditioner.null_condition([Prompt("3")])


def test_the_schedule_and_the_scale_are_those_of_the_file(tmp_path):
    config = Config(channels=3, levels=zoo.LEVELS, text_width=0)
    parts = zoo.network(config), zoo.first_stage(), {"scale_factor": torch.tensor(0.22765929)}
    path = zoo.written(tmp_path / "churches.safetensors", *parts, zoo.betas(0.0015, 0.0155))
    model = checkpoints.read(path)
    assert model.process.schedule == ScaledLinear(beta_start=0.0015, beta_end=0.0155)
    assert float(1 / model.autoencoder.scale.deviation[0]) == pytest.approx(0.22765929)
    checkpoints.save(model, tmp_path / "again.safetensors", "single-file")
    again, first = load_file(tmp_path / "again.safetensors"), load_file(path)
    assert difference(again.pop("alphas_cumprod"), (1 - first.pop("betas")).cumprod(0)) < 1e-5
    assert difference(again.pop("scale_factor"), first.pop("scale_factor")) < 1e-6
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert plan_load([tmp_path / "again.safetensors"], {}).process == model.process
    assert inspect(str(path))["schedule"]["beta_end"] == 0.0155
    half = {"betas": zoo.betas()["betas"].half()}  # which rounds, and says nothing else
    path = zoo.written(tmp_path / "half.safetensors", zoo.network(config), half)
    assert plan_load([path], {}).process.schedule == ScaledLinear(
        beta_start=0.0015, beta_end=0.0195
    )
